"""Rows: the prompts that go in, and the results that come out.

A row in has ``prompt`` (text, or a list of token ids) or ``messages`` (a chat), optionally ``id`` and ``sampling``;
any other field is carried through to its row out. Normalised rows also have ``index``, their place in the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.checks import as_path
from vllm_hpc.errors import InputError

Row = dict[str, Any]

SAMPLE_PROMPTS = ("Hello, my name is", "The capital of France is")
SUFFIXES = (".jsonl", ".txt")
# What only a row in has, and what only a row out has: a carried field of the second kind would be overwritten.
INPUT_FIELDS = frozenset({"index", "id", "prompt", "messages", "sampling"})
OUTPUT_FIELDS = frozenset(
    {"index", "text", "finish_reason", "prompt_tokens", "completion_tokens", "replica", "outputs", "error"}
)
_BOM = "\ufeff"


def read_rows(path: str | None) -> Iterator[Row]:
    """Read and check an input file, row by row, normalised; None gives the sample prompts.

    Raises InputError, which names file and line, at the first row that is wrong.
    """
    if path is None:
        yield from ({"index": index, "id": str(index), "prompt": text} for index, text in enumerate(SAMPLE_PROMPTS))
        return
    file = _find_file(path)
    seen: set[str | int] = set()
    index = -1
    for index, (line, fields) in enumerate(_read_lines(file)):
        row = _normalise(fields, index, f"{file}:{line}")
        if row["id"] in seen:
            raise InputError(f"{file}:{line}: id {row['id']!r} was given before: ids must differ (or be left out)")
        seen.add(row["id"])
        yield row
    if index < 0:
        raise InputError(f"{file} holds no prompt: write a row a line")


def check_rows(path: str | None) -> int:
    """Check every row of an input and return how many there are. Raises InputError."""
    return sum(1 for _ in read_rows(path))


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


def _find_file(path: str) -> Path:
    file = as_path(path, "--input")
    if not file.exists():
        raise InputError(f"no such input: {str(file)!r}: give a {' or '.join(SUFFIXES)} file")
    if file.is_dir():
        raise InputError(f"input {str(file)!r} is a folder: give a {' or '.join(SUFFIXES)} file")
    if not file.is_file():
        raise InputError(f"input {str(file)!r} is a pipe or a device, and is read more than once: write it to a file")
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"input {str(file)!r}: only {' and '.join(SUFFIXES)} can be read: convert it to one of them")
    return file


def _read_lines(file: Path) -> Iterator[tuple[int, Any]]:
    """Line number (from 1) and content of every line that is not blank."""
    is_text = file.suffix.lower() == ".txt"
    decoder = msgspec.json.Decoder()
    try:
        with file.open("rb") as stream:
            for number, raw in enumerate(stream, start=1):
                line = _decode(raw, f"{file}:{number}", first=number == 1)
                if not line.strip():
                    continue
                yield number, ({"prompt": line} if is_text else _parse(decoder, line, f"{file}:{number}"))
    except OSError as error:
        raise InputError(f"cannot read input {str(file)!r}: {error.strerror}") from None


def _decode(raw: bytes, where: str, first: bool) -> str:
    try:
        line = raw.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputError(f"{where}: not UTF-8: convert the file, for example with iconv") from None
    return line.removeprefix(_BOM) if first else line


def _parse(decoder: msgspec.json.Decoder[Any], line: str, where: str) -> Any:
    try:
        return decoder.decode(line)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InputError(f"{where}: not valid JSON: {error}") from None


def _normalise(fields: Any, index: int, where: str) -> Row:
    if not isinstance(fields, dict):
        raise InputError(f"{where}: a row must be a JSON object with 'prompt' or 'messages'")
    if ("prompt" in fields) == ("messages" in fields):
        raise InputError(f"{where}: a row needs either 'prompt' or 'messages'")
    if clash := sorted(OUTPUT_FIELDS & fields.keys()):
        raise InputError(f"{where}: field {clash[0]!r} is one that the output rows have: rename it")
    identity = fields.get("id", str(index))
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise InputError(f"{where}: 'id' must be a text or a whole number")
    if not isinstance(fields.get("sampling", {}), dict):
        raise InputError(f"{where}: 'sampling' must be an object, such as {{\"temperature\": 0}}")
    if "prompt" in fields:
        _check_prompt(fields["prompt"], where)
    else:
        _check_messages(fields["messages"], where)
    return {"index": index, "id": identity, **{key: value for key, value in fields.items() if key != "id"}}


def _check_prompt(prompt: Any, where: str) -> None:
    is_ids = isinstance(prompt, list) and all(type(token) is int for token in prompt)
    if not isinstance(prompt, str) and not is_ids:
        raise InputError(f"{where}: 'prompt' must be a text or a list of token ids")


def _check_messages(messages: Any, where: str) -> None:
    if not isinstance(messages, list) or not messages:
        raise InputError(f"{where}: 'messages' must be a list of messages")
    if not all(isinstance(message, dict) and isinstance(message.get("role"), str) for message in messages):
        raise InputError(f"{where}: every message must be an object with a 'role', and its 'content'")
