"""Reads lines of OpenAI batch files: ``custom_id``, ``method``, ``url`` and the ``body`` of a request."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.messages import checked_messages
from vllm_hpc.rows.openai_chat import take_chat_options, take_shown
from vllm_hpc.rows.openai_sampling import IGNORED, check_neutral, sampling_of, take_cuts
from vllm_hpc.rows.plain import checked_prompt
from vllm_hpc.rows.row import CHAT_FIELDS, Row, RowError
from vllm_hpc.rows.whole_numbers import with_whole_numbers

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
URLS = (CHAT, COMPLETIONS, EMBEDDINGS)
_LINE_FIELDS = frozenset({"custom_id", "method", "url", "body"})
# Fields that would change the answer of a row of our own.
_OWN = CHAT_FIELDS | {"prompt", "messages", "sampling", "lora", "task"}
# Azure's urls have no version.
_VERSION = "/v1"


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
        words = f"{missing[0]!r} is missing: a batch request has 'custom_id', 'url' and 'body'"
        raise RowError(f"{words}{_without_url(fields) if missing == ['url'] else ''}")
    url = _url_of(fields["url"])
    _check_line(fields, url)
    body = with_whole_numbers({key: value for key, value in fields["body"].items() if value is not None})
    model = body.pop("model", None)
    if not isinstance(model, str | None):
        raise RowError("body: 'model' must be a string")
    batch = {"custom_id": fields["custom_id"], "url": url, "model": model}
    asked = _REQUESTS[url](body)
    return {"index": index, "id": fields["custom_id"], "batch": batch | asked.pop("batch", {}), **asked}


def other_fields(fields: Row) -> list[str]:
    """The fields of a request that no batch request has, and that are left out."""
    return sorted(repr(name) for name, value in fields.items() if name not in _LINE_FIELDS and value is not None)


def _url_of(given: Any) -> Any:
    """A url as OpenAI writes it."""
    versioned = f"{_VERSION}{given}"
    return versioned if versioned in URLS else given


def _without_url(fields: Row) -> str:
    """What to do about a request without a url, as others than OpenAI write it; nothing if its body says too little."""
    body = fields["body"] if isinstance(fields["body"], dict) else {}
    url = next((url for name, url in _URL_BY_FIELD.items() if name in body), None)
    return f": add it, as jq -c '. + {{url: \"{url}\"}}' does" if url else ""


def _check_line(fields: Row, url: Any) -> None:
    if own := sorted(name for name in _OWN & fields.keys() if fields[name] is not None):
        raise RowError(f"{own[0]!r} is not a field of a batch request: put it into the 'body', or remove it")
    if not isinstance(fields["custom_id"], str) or not fields["custom_id"]:
        raise RowError("'custom_id' must be a string")
    if fields.get("method", "POST") != "POST":
        raise RowError("'method' must be \"POST\"")
    if url not in URLS:
        raise RowError(f"url {fields['url']!r} is not supported: use one of {', '.join(URLS)}")
    if not isinstance(fields["body"], dict):
        raise RowError("'body' must be an object")


def _chat(body: Row) -> Row:
    messages = checked_messages(body.pop("messages", None), ".body.messages")
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
    prompt = checked_prompt(prompt, name, is_field=False)
    if not prompt:
        raise RowError(f"body: {name!r} is empty")
    return prompt


_URL_BY_FIELD = {"messages": CHAT, "prompt": COMPLETIONS, "input": EMBEDDINGS}
_REQUESTS = {CHAT: _chat, COMPLETIONS: _completion, EMBEDDINGS: _embedding}
