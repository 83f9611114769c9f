"""OpenAI batch lines: an output row as in a file from ``/v1/batches``.

Every id follows from the row's index and custom_id: the line is the same however often and wherever the row runs.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from vllm_hpc.engine.rows.logprobs import IMPOSSIBLE
from vllm_hpc.rows.row import Row

Body = dict[str, Any]
# The finish reasons that OpenAI has a name for.
_FINISH_REASONS = ("stop", "length", "tool_calls")


def line(row: Row, content: dict[str, Any], counts: dict[str, int], created: int) -> Body:
    """The line of a row with an answer. ``created``: Unix seconds, the job's."""
    kind, prefix = _kind(str(row["batch"].get("url")), row)
    usage = {
        "prompt_tokens": counts["prompt_tokens"],
        "completion_tokens": counts["completion_tokens"],
        "total_tokens": sum(counts.values()),
    }
    if kind == "list":
        del usage["completion_tokens"]
        parts = [{"object": "embedding", "index": 0, "embedding": content["embedding"]}]
        body: Body = {"object": kind, "data": parts}
    else:
        make = partial(_chat_choice, row) if kind == "chat.completion" else _text_choice
        choices = [{"index": index, **make(one)} for index, one in enumerate(content.get("outputs", [content]))]
        body = {"object": kind, "choices": choices}
        if "prompt_logprobs" in content:
            body["prompt_logprobs"] = content["prompt_logprobs"]
    identity = {"id": f"{prefix}-{_digest(row)}", "created": created, "model": row["batch"].get("model") or ""}
    return _line(row, 200, {**identity, **body, "usage": usage}, None)


def error_line(row: Row, message: str) -> Body:
    """The line of a row without an answer, as ``vllm run-batch`` writes it."""
    error = {"message": message, "type": "BadRequestError", "param": None, "code": 400}
    return _line(row, 400, {"error": error}, {"code": "400", "message": message})


def _line(row: Row, status: int, body: Body, error: Body | None) -> Body:
    digest = _digest(row)
    return {
        "id": f"batch_req_{digest}",
        "custom_id": row["batch"].get("custom_id"),
        "response": {"status_code": status, "request_id": f"req_{digest}", "body": body},
        "error": error,
    }


def _kind(url: str, row: Row) -> tuple[str, str]:
    """OpenAI's name for what a url returns, and how its ids begin."""
    if url.endswith("/embeddings"):
        return "list", "embd"
    return ("chat.completion", "chatcmpl") if "messages" in row else ("text_completion", "cmpl")


def _digest(row: Row) -> str:
    text = f"{row['index']}:{row['batch'].get('custom_id')}"
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _choice(one: dict[str, Any]) -> Body:
    reason = one["finish_reason"]
    return {
        "finish_reason": reason if reason in _FINISH_REASONS else "stop",
        "stop_reason": one.get("stop_reason"),
    }


def _chat_choice(row: Row, one: dict[str, Any]) -> Body:
    role, content = _role(row), one["text"]
    if row["batch"].get("echo"):
        content = _last_content(row, role) + (content or "")
    message = {"role": role, "content": content, "refusal": None}
    if one.get("tool_calls"):
        message["tool_calls"] = one["tool_calls"]
    shows_all = row["batch"].get("include_reasoning", True) or "reasoning" not in one
    if "reasoning" in one:
        message["reasoning"] = one["reasoning"] if shows_all else None
    logprobs = None
    if "logprobs" in one and shows_all:  # the tokens of what is left out would tell it
        logprobs = {"content": [_chat_token(token) for token in one["logprobs"]]}
    return {"message": message, "logprobs": logprobs, **_choice(one)}


def _role(row: Row) -> str:
    """Who speaks: the assistant, or if nobody is asked to begin, who spoke last; as in vLLM's server."""
    asks = (row.get("chat_template_kwargs") or {}).get("add_generation_prompt", True)
    return "assistant" if asks else str(row["messages"][-1]["role"])


def _last_content(row: Row, role: str) -> str:
    """The last message of a chat, if the answer continues it."""
    last = row["messages"][-1]
    content = last.get("content") if last["role"] == role else None
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if isinstance(part, dict) and "text" in part)
    return content or ""


def _chat_token(token: dict[str, Any]) -> Body:
    return {**_token(token), "top_logprobs": [_token(other) for other in token["top_logprobs"]]}


def _token(token: dict[str, Any]) -> Body:
    text = token["token"] or ""
    return {"token": text, "logprob": _number(token), "bytes": list(text.encode())}


def _number(token: dict[str, Any]) -> float:
    logprob: float | None = token["logprob"]
    return IMPOSSIBLE if logprob is None else logprob


def _text_choice(one: dict[str, Any]) -> Body:
    logprobs = _text_logprobs(one["logprobs"]) if "logprobs" in one else None
    return {"text": one["text"], "logprobs": logprobs, **_choice(one)}


def _text_logprobs(tokens: list[dict[str, Any]]) -> Body:
    """OpenAI's older shape: columns instead of tokens."""
    texts = [token["token"] or "" for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [_number(token) for token in tokens],
        "top_logprobs": [{other["token"] or "": _number(other) for other in token["top_logprobs"]} for token in tokens],
        "text_offset": [sum(map(len, texts[:place])) for place in range(len(texts))],
    }
