"""Reads .jsonl, .txt and OpenAI batch files line by line, at submission and on the ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.openai_batch import batch_row, is_batch
from vllm_hpc.rows.plain import plain_row
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.spec.errors import InputError

# A longer line is not a prompt but a file without newlines, and would be read into memory whole.
MAX_LINE = 128 << 20
BOM = b"\xef\xbb\xbf"
# With a repeated key it is unclear which value counts. JSON parsers do not report it, so such lines are parsed again.
_KEYS = tuple(f'"{key}"'.encode() for key in ("prompt", "messages", "id", "custom_id"))

_decode = msgspec.json.Decoder().decode


class LineSource:
    """A file of lines. ``maker``, if set, groups them into blocks the next time the file is read to its end.

    ``is_blank``: there is no row in it. ``url``: that of its requests, once it was read, if it is an OpenAI batch.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        kind = kind_of(file)
        self.kind, self.is_blank = kind or "jsonl", kind is None
        self.maker: BlockMaker | None = None
        self.url: str | None = None

    @property
    def share(self) -> float:
        """The share of the file that was read, from 0 to 1."""
        return self.file.share

    @property
    def unpacked(self) -> int:
        """Unpacked bytes that were read."""
        return self.file.unpacked

    def place(self, number: int) -> str:
        """The position of line ``number``, for errors."""
        return f"{self.file}:{number}"

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Line number and normalised row; the first row gets the index ``first``. Raises InputError, OSError."""
        with self.file.open() as stream:
            maker, self.maker = self.maker, None
            if maker:
                maker.begin(first)
            lines = numbered_lines(stream, self.file)
            rows = rows_of_lines(lines, self.kind, self.file, first, maker.add if maker else None)
            yield from self._of_one_url(rows) if self.kind == "openai" else rows
            if maker:
                maker.finish()

    def _of_one_url(self, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
        """Refuse mixed urls: a chat model and an embedding model need two jobs."""
        self.url = None
        for number, row in rows:
            url = row["batch"]["url"]
            self.url = self.url or url
            if url != self.url:
                raise InputError(
                    f"{self.place(number)}: url {url!r}, but the first line has {self.url!r}: use one url per file"
                )
            yield number, row


def numbered_lines(stream: BinaryIO, file: InputFile | Path, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream with their numbers, from ``first``. Raises InputError if a line is too long."""
    for number, raw in enumerate(iter(partial(stream.readline, MAX_LINE + 1), b""), first):
        if len(raw) > MAX_LINE:
            raise InputError(f"{file}:{number}: longer than {MAX_LINE >> 20} MiB: write one row per line")
        yield number, raw


def rows_of_lines(
    lines: Iterator[tuple[int, bytes]],
    kind: str,
    file: InputFile | Path,
    index: int = 0,
    on_line: Callable[[bytes, bool], object] | None = None,
) -> Iterator[tuple[int, Row]]:
    """Line number and normalised row of every line that is not blank; the first row gets ``index``.

    ``kind`` is a key of ROWS_OF; ``on_line`` is called with every line, and whether it is a row. Raises InputError
    with file and line.
    """
    row_of = ROWS_OF[kind]
    for number, raw in lines:
        try:
            row = row_of(raw.removeprefix(BOM) if number == 1 else raw, index)
        except RowError as error:
            raise InputError(f"{file}:{number}: {error}") from None
        if on_line:
            on_line(raw, row is not None)
        if row is not None:
            index += 1
            yield number, row


def kind_of(file: InputFile) -> str | None:
    """The kind of a file, a key of ROWS_OF, decided by its first line; None without one. Raises OSError, InputError."""
    if file.suffix == ".txt":
        return "txt"
    with file.open() as stream:
        for number, raw in numbered_lines(stream, file):
            line = raw.removeprefix(BOM) if number == 1 else raw
            if line and not line.isspace():
                return "openai" if is_batch(_loosely(line)) else "jsonl"
    return None


def _loosely(line: bytes) -> Any:
    """The value in a line, None if it is not JSON: the error is raised later, when it is read as a row."""
    try:
        return parse(line)
    except RowError:
        return None


def parse(line: bytes) -> Any:
    """The value in a line of JSON. Raises RowError, also for a repeated key."""
    try:
        value = _decode(line)
    except UnicodeDecodeError:
        raise RowError(_NOT_UTF8) from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise RowError(_not_json(line, error)) from None
    for key in _KEYS:
        if line.count(key) > 1:
            _check_keys(line)
            break
    return value


_NOT_UTF8 = "not UTF-8: convert the file, for example with iconv"


def _not_json(line: bytes, error: Exception) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return _NOT_UTF8
    return f"not valid JSON: {error}: write one complete object per line"


def _check_keys(line: bytes) -> None:
    def check(pairs: list[tuple[str, Any]]) -> None:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise RowError(f"{twice!r} appears twice in one object: remove one")

    try:
        json.loads(line, object_pairs_hook=check)
    except (RecursionError, ValueError) as error:
        raise RowError(f"not valid JSON: {error}") from None


def decode_line(raw: bytes) -> str:
    """A line as a string, with its newline. Raises RowError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RowError(_NOT_UTF8) from None


def _json_row(make: Callable[[Any, int], Row], raw: bytes, index: int) -> Row | None:
    return None if not raw or raw.isspace() else make(parse(raw), index)


def _text_row(raw: bytes, index: int) -> Row | None:
    text = decode_line(raw).rstrip("\r\n")
    return {"index": index, "id": str(index), "prompt": text} if text.strip() else None


def _own_row(raw: bytes, index: int) -> Row:
    """A row that was normalised when the job was submitted."""
    try:
        row: Row = _decode(raw)
    except msgspec.DecodeError as error:
        raise RowError(f"not valid JSON: {error}") from None
    return row


# How a line becomes a row. "rows" is the input.jsonl of a job folder, already normalised.
ROWS_OF: dict[str, Callable[[bytes, int], Row | None]] = {
    "jsonl": partial(_json_row, plain_row),
    "openai": partial(_json_row, batch_row),
    "txt": _text_row,
    "rows": _own_row,
}
