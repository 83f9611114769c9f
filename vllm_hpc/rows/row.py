"""Rows: the prompts that go in, and the results that come out.

A row in has ``prompt`` (text, or a list of token ids) or ``messages`` (a chat), optionally ``id``, ``sampling`` and
``chat_template_kwargs``; any other field is carried through to its row out. Normalised rows also have ``index``, their
place in the input; those of an OpenAI batch have ``batch`` (custom_id, url, model), and ``task`` where they ask for
something else than text. Which files they are read from: vllm_hpc/formats.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

Row = dict[str, Any]

SAMPLE_PROMPTS = ("Hello, my name is", "The capital of France is")
# What only a row in has, and what only a row out has: a carried field of the second kind would be overwritten.
INPUT_FIELDS = frozenset(
    {"index", "id", "prompt", "messages", "sampling", "tools", "chat_template_kwargs", "batch", "task"}
)
OUTPUT_FIELDS = frozenset(
    {"index", "text", "finish_reason", "prompt_tokens", "completion_tokens", "replica", "outputs", "error"}
    | {"stop_reason", "reasoning", "logprobs", "prompt_logprobs", "embedding", "rehearsal"}
)


# In every row out of a rehearsal, so that nobody takes one for a model's answer.
REHEARSED: Row = {"rehearsal": True}


class RowError(Exception):
    """What is wrong with a row; whoever knows its file and line makes an InputError of it."""


def write_rows(rows: Iterable[Row], path: Path) -> int:
    """Write rows as JSON lines and return how many."""
    count = 0
    encoder = msgspec.json.Encoder()
    with path.open("wb") as file:
        for row in rows:
            file.write(encoder.encode(row) + b"\n")
            count += 1
    return count


def iter_jsonl(path: Path) -> Iterator[Row]:
    """The complete rows of a JSON-lines file that we wrote; a torn last line (the writer was killed) is left out."""
    decoder = msgspec.json.Decoder()
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            yield decoder.decode(line)


def carried_fields(row: Row) -> Row:
    """The fields of a row in that its row out repeats, untouched."""
    return {key: value for key, value in row.items() if key not in INPUT_FIELDS}


def error_row(row: Row, kind: str, message: str) -> Row:
    """The row out of a row without a result."""
    return {
        "index": row["index"],
        "id": row["id"],
        "error": {"type": kind, "message": message},
        **carried_fields(row),
    }
