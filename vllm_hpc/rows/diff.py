"""Two output rows side by side: whether the answers are equal, and where they first differ."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vllm_hpc.rows.row import Row

# What is compared unless --fields names others.
ANSWER_FIELDS = ("text", "reasoning", "tool_calls", "outputs", "embedding", "finish_reason")
# Characters of a text that are shown before and after its first difference.
_BEFORE, _AFTER = 20, 40
# Where it does not matter at which letter they differ.
_WORDS_OF_THE_ENGINE = ("finish_reason", "stop_reason")
_WORD = re.compile(r"\S+\s+")

# Splits a text into tokens.
Tokenize = Callable[[str], Sequence[Any]]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Where two rows first differ. ``field``: the first that does; of several outputs "outputs[1].text".

    Of a text: ``character`` counts from 0, ``word`` and ``token`` from 1; ``token`` is None where neither row has its
    tokens. ``common``: the share of the longer text before that. ``first`` and ``second``: both from there on, cut.
    """

    field: str
    character: int | None = None
    word: int | None = None
    token: int | None = None
    common: float | None = None
    first: str
    second: str


def answer_of(row: Row) -> Row:
    """The answer of an output row by vllm-hpc's names, also of a line of an OpenAI batch."""
    if "custom_id" not in row or "response" not in row:
        return row
    body = _object(_object(row["response"]).get("body"))
    found: Row = {"id": row["custom_id"]}
    if row.get("error") or body.get("error"):
        return {**found, "error": _error(row.get("error") or body["error"])}
    choices = [_choice(one) for one in _objects(body.get("choices"))]
    found |= choices[0] if len(choices) == 1 else {"outputs": choices} if choices else {}
    if parts := _objects(body.get("data")):
        found["embedding"] = parts[0].get("embedding")
    usage = _object(body.get("usage"))
    return {**found, **{name: usage[name] for name in ("prompt_tokens", "completion_tokens") if name in usage}}


def _object(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Row]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _error(error: Any) -> Row:
    """A batch's error under the names of ours."""
    if not isinstance(error, dict):
        return {"type": "error", "message": str(error)}
    return {"type": str(error.get("code")), "message": str(error.get("message"))}


def _choice(choice: Row) -> Row:
    message = _object(choice.get("message"))
    found: Row = {"text": message.get("content", choice.get("text")), "finish_reason": choice.get("finish_reason")}
    found |= {name: message[name] for name in ("reasoning", "tool_calls") if message.get(name)}
    if logprobs := _object(choice.get("logprobs")):
        columns = logprobs.get("tokens")
        tokens = [{"token": token} for token in columns] if isinstance(columns, list) else []
        found["logprobs"] = _objects(logprobs.get("content")) or tokens
    return found


def compare_answers(first: Row, second: Row, fields: Sequence[str], tokenize: Tokenize | None) -> Difference | None:
    """Where two answers first differ in ``fields``; None if they are equal in all of them."""
    for field in fields:
        one, other = first.get(field), second.get(field)
        if one == other:
            continue
        if field == "outputs" and isinstance(one, list) and isinstance(other, list):
            return _of_outputs(one, other, tokenize)
        if isinstance(one, str) and isinstance(other, str) and field not in _WORDS_OF_THE_ENGINE:
            return _of_texts(field, (first, second), (one, other), tokenize)
        return Difference(field=field, first=_shown(one), second=_shown(other))
    return None


def _of_outputs(one: list[Any], other: list[Any], tokenize: Tokenize | None) -> Difference:
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left == right:
            continue
        if isinstance(left, dict) and isinstance(right, dict):
            found = compare_answers(left, right, sorted(left.keys() | right.keys(), key=_text_first), tokenize)
            if found:
                return msgspec.structs.replace(found, field=f"outputs[{place}].{found.field}")
        return Difference(field=f"outputs[{place}]", first=_shown(left), second=_shown(right))
    return Difference(field="outputs", first=f"{len(one)} outputs", second=f"{len(other)} outputs")


def _text_first(name: str) -> tuple[bool, str]:
    return (name != "text", name)


def _of_texts(field: str, rows: tuple[Row, Row], texts: tuple[str, str], tokenize: Tokenize | None) -> Difference:
    one, other = texts
    place = _first_place(one, other)
    token = _first_token(rows) if field == "text" else None
    if token is None and tokenize is not None:
        token = _first_place(tokenize(one), tokenize(other)) + 1
    start = max(0, place - _BEFORE)
    return Difference(
        field=field,
        character=place,
        word=len(_WORD.findall(one[:place])) + 1,
        token=token,
        common=round(place / max(len(one), len(other)), 4),
        first=_shown(one[start : place + _AFTER]),
        second=_shown(other[start : place + _AFTER]),
    )


def _first_place(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The first place in which two sequences differ; the length of the shorter if it begins the other."""
    most = min(len(one), len(other))
    low, high = 0, most
    while low < high:  # slices are compared much faster than their parts one by one
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _first_token(rows: tuple[Row, Row]) -> int | None:
    """The first sampled token that differs, from 1, if both rows have log probabilities."""
    one, other = (_tokens(row.get("logprobs")) for row in rows)
    return None if one is None or other is None else _first_place(one, other) + 1


def _tokens(logprobs: Any) -> list[Any] | None:
    if not isinstance(logprobs, list) or not logprobs or not all(isinstance(one, dict) for one in logprobs):
        return None
    return [one.get("token_id", one.get("token")) for one in logprobs]


def _shown(value: Any) -> str:
    """A value as JSON, cut."""
    text = msgspec.json.encode(value).decode()
    most = 2 * (_BEFORE + _AFTER)
    return text if len(text) <= most else f"{text[:most]}..."
