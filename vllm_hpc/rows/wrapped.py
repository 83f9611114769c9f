"""Rows that are packed into something else, for advice: the jq program that takes them, or their chat, out."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

from vllm_hpc.rows.conversations import is_turns
from vllm_hpc.rows.likely import NEVER, QUESTIONS, TEXTS, has_one, words_of
from vllm_hpc.rows.row import Row
from vllm_hpc.rows.speakers import messages_program

# What lists of rows are called in an object around them.
_LISTS = frozenset(
    {"data", "rows", "items", "records", "results", "hits", "examples", "instances", "questions", "documents"}
    | {"entries", "samples", "requests", "train", "validation", "test", "docs", "result", "children", "prompts"}
)
# What a row is called in an object around it by Elasticsearch, Hugging Face's server and Reddit.
_ROWS = ("_source", "row", "data")
_TEXTS = (*QUESTIONS, *TEXTS)
# The most fields of an object around rows in a list of another name.
_MOST_FIELDS = 3
# Sampling as others have it beside a chat.
_SAMPLING = {"max_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k",
             "stop": "stop", "stop_sequences": "stop"}  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_STEM = re.compile(r"\d+$")
_SQUAD = '.data[].paragraphs[] | .context as $c | .qas[] | {id, prompt: ($c + "\\n\\n" + .question)}'
_PHPMYADMIN = '.[] | select(.type == "table") | .data[]'
COLUMNS = "write rows, not columns (pandas: to_json(..., orient='records', lines=True))"


def take_out(fields: Row) -> str | None:
    """What to do about an object that has a chat in another form, or rows; None if it does not look so."""
    return _chat_within(fields) or _turns(fields) or _rows_within(fields)


def _chat_within(fields: Row) -> str | None:
    for path, value in _objects(fields):
        if isinstance(value.get("messages"), list) and path:
            return f"take the messages out of {path[1:]!r}, as {_jq(_chat(path, value))} does"
        if is_gemini(value.get("contents")):
            name = f"{path}.contents"[1:]
            return f"{name!r} is a chat in Gemini's form: {_as_messages(_gemini(path, value))}"
    return None


def _turns(fields: Row) -> str | None:
    if any(isinstance(value, str) and name.lower() in QUESTIONS for name, value in fields.items()):
        return None
    for name, value in fields.items():
        if not is_turns(value) and (program := messages_program(_step(name), value)):
            return f"{name!r} is a chat: {_as_messages(program)}"
    return None


def _as_messages(program: str) -> str:
    return f"write it as 'messages', as {_jq(f'. + {{messages: {program}}}')} does"


def _rows_within(fields: Row) -> str | None:
    if _are_columns(fields):
        return COLUMNS
    if fields.get("type") == "header" and "version" in fields:
        return f"if phpMyAdmin wrote it, take the rows out, as {_jq(_PHPMYADMIN)} does"
    if by_id := _rows(fields):
        return f"if these are ids of rows, take the rows out, as {_jq(by_id)} does"
    if listed := _list(fields):
        name = listed.removeprefix(".").partition("[")[0].strip('"')
        return f"if the rows are in {name!r}, take them out, as {_jq(listed)} does"
    return None


def is_gemini(value: Any) -> bool:
    """Whether it is a chat in Gemini's form."""
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "parts" in turn for turn in value)


def _objects(fields: Row, path: str = "", depth: int = 2) -> Iterator[tuple[str, Row]]:
    """The objects in an object, with their paths in jq; first itself."""
    yield path, fields
    for name, value in fields.items() if depth else ():
        if isinstance(value, dict):
            yield from _objects(value, path + _step(name), depth - 1)


def _chat(path: str, value: Row) -> str:
    """The program that adds an object's messages, with its system prompt and sampling, to the row."""
    messages = f"{path}.messages"
    if "system" in value:
        messages = f'([{path}.system | values | {{role: "system", content: .}}] + {messages})'
    names = [name if name == own else f"{own}: .{name}" for name, own in _SAMPLING.items() if name in value]
    sampling = f", sampling: ({path} | {{{', '.join(names)}}})" if names else ""
    return f". + {{messages: {messages}{sampling}}}"


def _gemini(path: str, value: Row) -> str:
    """The messages of Gemini's ``contents``."""
    role = '(if .role == "model" then "assistant" else "user" end)'
    turns = f'[{path}.contents[] | {{role: {role}, content: ([.parts[].text] | join(""))}}]'
    name = next((name for name in ("systemInstruction", "system_instruction") if name in value), None)
    if name is None:
        return turns
    system = f'[{path}.{name} | values | {{role: "system", content: ([.parts[].text] | join(""))}}]'
    return f"({system} + {turns})"


def _are_columns(fields: Row) -> bool:
    """Whether every field is a column: a list, or an object by row numbers."""
    values = list(fields.values())
    if not values:
        return False
    if all(isinstance(value, dict) and value and all(key.isdecimal() for key in value) for value in values):
        return True
    is_split = {"columns", "data"} <= fields.keys() and isinstance(fields["columns"], list)
    return is_split or (
        len(values) > 1
        and all(isinstance(value, list) for value in values)
        and len({len(value) for value in values}) == 1
        and any(isinstance(value[0], str) for value in values if value)
    )


def _rows(fields: Row) -> str | None:
    """The program for rows by their ids, as in {"q1": {...}, "q2": {...}}."""
    values = list(fields.values())
    if len(values) < 2 or has_one(fields, _TEXTS):
        return None
    if all(isinstance(value, dict) and value for value in values):
        shared = set.intersection(*(set(value) for value in values))
        return "to_entries[] | {id: .key} + .value" if shared else None
    is_numbered = len({_STEM.sub("", name) for name in fields}) == 1
    is_texts = is_numbered and all(isinstance(value, str) for value in values)
    return "to_entries[] | {id: .key, prompt: .value}" if is_texts else None


def _list(fields: Row) -> str | None:
    """The program for rows in a list; None if there is a text beside it."""
    if _is_squad(fields):
        return _SQUAD
    is_around = len(fields) <= _MOST_FIELDS and not any(isinstance(one, dict) for one in _others(fields).values())
    for path, value in _objects(fields, depth=1):
        if any(isinstance(one, str | dict) and name.lower() in _TEXTS for name, one in value.items()):
            continue
        for name, items in _others(value).items():
            is_list = isinstance(items, list) and items and isinstance(items[0], dict) and name.lower() not in _TEXTS
            if is_list and (name.lower() in _LISTS or (is_around and not path)):
                inner = next((f".{row}" for row in _ROWS if isinstance(items[0].get(row), dict)), "")
                return f"{path}{_step(name)}[]{inner}"
    return None


def _others(fields: Row) -> Row:
    """Fields that are no answers, and nothing that is said about them."""
    return {name: value for name, value in fields.items() if NEVER.isdisjoint(words_of(name))}


def _is_squad(fields: Row) -> bool:
    data = fields.get("data")
    first = data[0] if isinstance(data, list) and data else None
    paragraphs = first.get("paragraphs") if isinstance(first, dict) else None
    return (
        isinstance(paragraphs, list) and bool(paragraphs) and isinstance(paragraphs[0], dict) and "qas" in paragraphs[0]
    )


def _step(name: str) -> str:
    return f".{name}" if _NAME.fullmatch(name) else f".{json.dumps(name)}"


def _jq(program: str) -> str:
    return f"jq -c {shlex.quote(program)}"
