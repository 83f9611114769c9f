"""Prints prompts and answers for people to read."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.cli.output import say
from vllm_hpc.jobs.error_groups import error_of
from vllm_hpc.rows.row import Row

# Characters and lines of a text, unless all of it is wanted.
_MOST, _MOST_LINES = 1000, 20


def print_row(index: int, given: Row | None, row: Row | None, whole: bool) -> None:
    """Print one row; ``given`` is None if the input cannot be read, ``row`` if it has not run."""
    identity = _one_line((row or given or {}).get("custom_id", (row or given or {}).get("id", index)))
    say(f"row {index}, id {identity}: {_facts(row)}")
    for name, text in _prompts(given):
        _print_text(name, text, whole)
    for name, text in answers(row):
        _print_text(name, text, whole)
    say("")


def _print_text(name: str, text: str, whole: bool) -> None:
    """A text below its name, with its lines; its end is left out if it is long."""
    shown = text if whole else "\n".join(text[:_MOST].split("\n")[:_MOST_LINES])
    lines = shown.replace("\r", "\n").split("\n")
    say(f"  {name}: {lines[0]}")
    for line in lines[1:]:
        say(f"    {line}")
    if len(shown) < len(text):
        say(f"    ... ({len(text):,} characters: --id shows all)")


def _facts(row: Row | None) -> str:
    if row is None:
        return "not finished"
    if row.get("error"):
        return "error"
    body = (row.get("response") or {}).get("body") or {} if isinstance(row.get("response"), dict) else row
    usage = body.get("usage") or {} if isinstance(body, dict) else {}
    prompt, output = (
        row.get(key, usage.get(key) if isinstance(usage, dict) else None)
        for key in ("prompt_tokens", "completion_tokens")
    )
    tokens = f"{prompt} prompt + {output} output tokens" if prompt is not None and output is not None else ""
    return ", ".join(filter(None, (_one_line(row.get("finish_reason") or ""), tokens))) or "finished"


def _prompts(given: Row | None) -> list[tuple[str, str]]:
    if given is None:
        return []
    if isinstance(messages := given.get("messages"), list):
        found = [message for message in messages if isinstance(message, dict)]
        return [(_one_line(one.get("role") or "message"), as_text(one.get("content"))) for one in found]
    return [("prompt", as_text(given.get("prompt", given.get("error"))))]


def answers(row: Row | None) -> list[tuple[str, str]]:
    """What a row has become: each answer, or its error, after what that is called; nothing if it has not run."""
    if row is None:
        return []
    if row.get("error"):
        kind, message = error_of(row)
        return [("error", f"{kind}: {message}")]
    if isinstance(response := row.get("response"), dict):
        return _of_batch(response.get("body"))
    if isinstance(outputs := row.get("outputs"), list):
        return [(f"answer {number}", as_text(_field(one, "text"))) for number, one in enumerate(outputs, start=1)]
    if isinstance(vector := row.get("embedding"), list):
        return [("embedding", f"{len(vector)} numbers")]
    return [("answer", as_text(row.get("text")))]


def _of_batch(body: Any) -> list[tuple[str, str]]:
    choices = _field(body, "choices")
    if not isinstance(choices, list) or not choices:
        return [("answer", as_text(body))]
    return [("answer", as_text(_said(one))) for one in choices]


def _said(choice: Any) -> Any:
    """The text of a chat's or a completion's choice; a chat that only calls tools has none."""
    message = _field(choice, "message")
    return _field(message, "content") if message else _field(choice, "text")


def _field(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def as_text(value: Any) -> str:
    """A prompt or an answer as text: the text of parts, else JSON."""
    if isinstance(value, str):
        return value
    if value is None:
        return "(none)"
    if isinstance(value, list) and value and all(isinstance(_field(part, "text"), str) for part in value):
        return "\n".join(part["text"] for part in value)
    return msgspec.json.encode(value).decode()


def _one_line(value: Any) -> str:
    return " ".join(as_text(value).split())[:200]
