"""What is said of a row without a prompt: which fields it has, what it may be, and which option would help."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vllm_hpc.rows.conversations import CONVERSATIONS, is_turns
from vllm_hpc.rows.row import Row

_MOST_NAMES = 8
# What texts are called in public data sets; only for advice.
_TEXTS = ("instruction", "question", "query", "problem", "input", "text", "article", "document", "context", "content")
# The most fields of an object around the rows, such as {"version": 1, "data": [...]}.
_WRAPPING = 3


def without_prompt(fields: Row, why: str = "") -> str:
    """Why a row has no prompt, and what to do; ``why``: what is known of it."""
    if "prompt" in fields:
        return "a row needs either 'prompt' or 'messages', not both"
    if "body" in fields and "custom_id" in fields:
        return "this is an OpenAI batch request, but the first line is not: use one kind per file"
    if why:
        return with_hint(f"a row needs either 'prompt' or 'messages', and {why}", fields)
    words = f"a row needs either 'prompt' or 'messages', this one has {some_names(fields)}"
    if (hinted := with_hint(words, fields)) != words:
        return hinted
    advice = next(filter(None, (_of_field(name, value, fields) for name, value in fields.items())), None)
    return f"{words}: {advice or text_advice([name for name, value in fields.items() if isinstance(value, str)])}"


def with_hint(words: str, fields: Row) -> str:
    """An error with what such a row is, if it comes from an output file."""
    error = fields.get("error")
    if isinstance(error, dict) and {"type", "message"} <= error.keys():
        hint = "an earlier job wrote it for a row with an error: leave these out, as jq -c 'select(.error | not)' does"
    elif "custom_id" in fields and "response" in fields:
        hint = "it is a line of an OpenAI batch's output, which has no prompt: use the batch's input"
    else:
        return words
    return f"{words}; {hint}"


def some_names(names: Collection[str]) -> str:
    """The names of fields for an error."""
    shown = ", ".join(repr(name) for name in list(names)[:_MOST_NAMES])
    return f"{shown} ..." if len(names) > _MOST_NAMES else shown or "nothing"


def text_advice(names: list[str]) -> str:
    """The options that make a prompt from fields with these names, by the likeliest as an example."""
    likely = [name for name in _TEXTS if name in names]
    usable = (name for name in (*likely, *names) if name.isidentifier() and not name.endswith("id"))
    text = next(usable, "NAME")
    return f"use --prompt-column {text}, or --prompt-template with {{{{ {text} }}}}"


def _of_field(name: str, value: Any, fields: Row) -> str | None:
    """What to do about a field that may hold the chat, or all rows; None if it does not look so."""
    if is_turns(value):
        return f"use --rename {name}={CONVERSATIONS}"
    if isinstance(value, list) and value and all(type(one) is int for one in value):
        return f"'prompt' may be token ids: use --rename {name}=prompt"
    if isinstance(value, dict) and isinstance(value.get("messages"), list):
        return f"take the messages out of {name!r}, as jq -c '. + {{messages: .{name}.messages}}' does"
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    if "parts" in value[0]:
        return f"{name!r} is a chat in Gemini's form: write it as 'messages', with 'role' and 'content'"
    if len(fields) > _WRAPPING:
        return None
    return f"if the rows are in {name!r}, take them out, as jq -c '.{name}[]' does"
