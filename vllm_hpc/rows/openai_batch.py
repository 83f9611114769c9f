"""Reads lines of OpenAI batch files: ``custom_id``, ``method``, ``url`` and the ``body`` of a request."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.messages import checked_messages
from vllm_hpc.rows.openai_chat import take_chat_options, take_shown
from vllm_hpc.rows.openai_sampling import IGNORED, check_neutral, sampling_of, take_cuts
from vllm_hpc.rows.plain import checked_prompt
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.whole_numbers import with_whole_numbers

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
URLS = (CHAT, COMPLETIONS, EMBEDDINGS)
_LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})


def is_batch(fields: Any) -> bool:
    """Whether a file with this first line is an OpenAI batch."""
    return (
        isinstance(fields, dict) and {"custom_id", "body"} <= fields.keys() and not {"prompt", "messages"} & set(fields)
    )


def batch_row(fields: Any, index: int) -> Row:
    """The normalised row of a request. Raises RowError for what is not supported and cannot safely be ignored."""
    if not isinstance(fields, dict) or not {"custom_id", "url", "body"} & fields.keys():
        raise RowError(
            "must be a request with 'custom_id', 'url' and 'body', like the first line: use one kind per file"
        )
    if missing := [name for name in ("custom_id", "url", "body") if name not in fields]:
        raise RowError(f"{missing[0]!r} is missing: a batch request has 'custom_id', 'url' and 'body'")
    _check_line(fields)
    given = {key: value for key, value in fields["body"].items() if value is not None}
    url, body = fields["url"], with_whole_numbers(given)
    model = body.pop("model", None)
    if not isinstance(model, str | None):
        raise RowError("body: 'model' must be a string")
    batch = {"custom_id": fields["custom_id"], "url": url, "model": model}
    asked = _REQUESTS[url](body)
    return {"index": index, "id": fields["custom_id"], "batch": batch | asked.pop("batch", {}), **asked}


def _check_line(fields: Row) -> None:
    if unknown := sorted(fields.keys() - _LINE_FIELDS):
        raise RowError(f"{unknown[0]!r} is not a field of a batch request (custom_id, method, url, body): remove it")
    if not isinstance(fields["custom_id"], str) or not fields["custom_id"]:
        raise RowError("'custom_id' must be a string")
    if fields.get("method", "POST") != "POST":
        raise RowError("'method' must be \"POST\"")
    if fields["url"] not in URLS:
        raise RowError(f"url {fields['url']!r} is not supported: use one of {', '.join(URLS)}")
    if not isinstance(fields["body"], dict):
        raise RowError("'body' must be an object")


def _chat(body: Row) -> Row:
    messages = checked_messages(body.pop("messages", None))
    options, shown = take_chat_options(body), take_shown(body)
    sampling = sampling_of(body, is_chat=True)
    if shown.get("echo"):  # as vLLM's server, which then also gives the log probabilities of the prompt
        sampling.setdefault("prompt_logprobs", sampling.get("logprobs", 0))
    row = {"messages": [_renamed(message) for message in messages], "sampling": sampling, **options}
    return {**row, "batch": shown} if shown else row


def _renamed(message: Row) -> Row:
    """A message with its reasoning under vLLM's newer name, as in vLLM's server."""
    if "reasoning_content" not in message:
        return message
    renamed = {key: value for key, value in message.items() if key != "reasoning_content"}
    if renamed.get("reasoning") is None:
        renamed["reasoning"] = message["reasoning_content"]
    return renamed


def _completion(body: Row) -> Row:
    return {"prompt": _prompt(body, "prompt"), "sampling": sampling_of(body, is_chat=False)}


def _embedding(body: Row) -> Row:
    prompt = _prompt(body, "input")
    dimensions = body.pop("dimensions", None)
    if dimensions is not None and (type(dimensions) is not int or dimensions < 1):
        raise RowError("body: 'dimensions' must be a whole number, 1 or more")
    check_neutral(body, {"encoding_format": ("float",)})
    sampling = take_cuts(body) | ({} if dimensions is None else {"dimensions": dimensions})
    if unknown := sorted(body.keys() - IGNORED):
        raise RowError(f"body: {unknown[0]!r} is not supported for embeddings: remove it")
    return {"task": "embed", "prompt": prompt, "sampling": sampling}


def _prompt(body: Row, name: str) -> Any:
    """The one prompt of a request, or the only item of a list."""
    if name not in body:
        raise RowError(f"body: {name!r} is missing")
    prompt = body.pop(name)
    if isinstance(prompt, list) and prompt and not all(type(token) is int for token in prompt):
        if len(prompt) > 1:
            raise RowError(f"body: {name!r} has {len(prompt)} prompts, but a row has one: write one line for each")
        prompt = prompt[0]
    prompt = checked_prompt(prompt, name)
    if not prompt:
        raise RowError(f"body: {name!r} is empty")
    return prompt


_REQUESTS = {CHAT: _chat, COMPLETIONS: _completion, EMBEDDINGS: _embedding}
