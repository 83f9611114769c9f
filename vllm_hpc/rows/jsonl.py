"""Reads .jsonl, .txt and OpenAI batch files line by line, at submission and on the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.decode import LooseError, parse
from vllm_hpc.rows.file_source import FileSource
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.openai_batch import is_batch
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.row_maker import RowMaker
from vllm_hpc.spec.errors import InputError

# A longer line is not a prompt but a file without newlines, and would be read into memory whole.
MAX_LINE = 128 << 20
BOM = b"\xef\xbb\xbf"


class UrlSource(Protocol):
    """A source that may be an OpenAI batch; ``url`` is that of its requests."""

    url: str | None

    def place(self, number: int) -> str:
        """The position of row ``number``, for errors."""


class LineSource(FileSource):
    """A file of lines. ``maker``, if set, groups them into blocks the next time the file is read to its end.

    ``is_blank``: there is no row in it. ``url``: that of its requests, once it was read, if it is an OpenAI batch.
    ``notes``: what is to be said of the rows that were read.
    """

    def __init__(self, file: InputFile, reading: Reading = AS_IT_IS) -> None:
        self.file, self.reading = file, reading
        kind = file.kind or kind_of(file, reading)
        self.kind, self.is_blank = kind or "jsonl", kind is None
        refuse_options(file, self.kind, reading)
        self.notes = Notes(self.place)
        self.maker: BlockMaker | None = None
        self.url: str | None = None

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Line number and normalised row; the first row gets the index ``first``. Raises InputError, OSError."""
        self.notes = Notes(self.place)
        with self.file.open() as stream:
            blocks, self.maker = self.maker, None
            if blocks:
                blocks.begin(first)
            lines = numbered_lines(stream, self.file)
            maker = RowMaker(self.kind, self.reading, self.notes)
            rows = rows_of_lines(lines, maker, self.file, first, blocks.add if blocks else None)
            yield from of_one_url(self, rows) if self.kind == "openai" else rows
            if blocks:
                blocks.finish()


def numbered_lines(stream: BinaryIO, file: InputFile | Path, first: int = 1) -> Iterator[tuple[int, bytes]]:
    """The lines of a stream with their numbers, from ``first``. Raises InputError if a line is too long."""
    for number, raw in enumerate(iter(partial(stream.readline, MAX_LINE + 1), b""), first):
        if len(raw) > MAX_LINE:
            raise InputError(f"{_place(file, number)}: longer than {MAX_LINE >> 20} MiB: write one row per line")
        yield number, raw


def _place(file: InputFile | Path, number: int) -> str:
    return file.place(number) if isinstance(file, InputFile) else f"{file}:{number}"


def rows_of_lines(
    lines: Iterator[tuple[int, bytes]],
    maker: RowMaker,
    file: InputFile | Path,
    index: int = 0,
    on_line: Callable[[bytes, bool], object] | None = None,
) -> Iterator[tuple[int, Row]]:
    """Line number and normalised row of every line that is not blank; the first row gets ``index``.

    ``on_line`` is called with every line, and whether it is a row. Raises InputError with file and line.
    """
    for number, raw in lines:
        try:
            row = maker.of_line(raw.removeprefix(BOM) if number == 1 else raw, index, number)
        except RowError as error:
            raise InputError(f"{_place(file, number)}: {error}") from None
        if on_line:
            on_line(raw, row is not None)
        if row is not None:
            index += 1
            yield number, row


def of_one_url(source: UrlSource, rows: Iterator[tuple[int, Row]]) -> Iterator[tuple[int, Row]]:
    """Refuse mixed urls: a chat model and an embedding model need two jobs."""
    source.url = None
    for number, row in rows:
        url = row["batch"]["url"]
        source.url = source.url or url
        if url != source.url:
            raise InputError(
                f"{source.place(number)}: url {url!r}, but the first line has {source.url!r}: use one url per file"
            )
        yield number, row


def kind_of(file: InputFile, reading: Reading) -> str | None:
    """The kind of a file, one of row_maker.KINDS, by its first line; None without one. Raises OSError, InputError."""
    with file.open() as stream:
        for number, raw in numbered_lines(stream, file):
            line = raw.removeprefix(BOM) if number == 1 else raw
            if line and not line.isspace():
                return "txt" if file.suffix == ".txt" else kind_of_value(line, reading)
    return "txt" if file.suffix == ".txt" else None


def kind_of_value(text: bytes, reading: Reading) -> str:
    """The kind of a file whose first row is this JSON."""
    try:
        fields = parse(text)
    except LooseError as error:
        fields = error.value
    except RowError:  # raised again when it is read as a row
        return "jsonl"
    if isinstance(fields, dict):
        fields = {reading.rename.get(name, name): value for name, value in fields.items()}
    return "openai" if is_batch(fields) and reading.prompt_column not in fields else "jsonl"


def refuse_options(file: InputFile, kind: str, reading: Reading) -> None:
    """Refuse options that are about rows of our own for an OpenAI batch. Raises InputError."""
    if kind == "openai" and reading.options:
        raise InputError(f"{file} is an OpenAI batch, for which {reading.options[0]} cannot be used: leave it out")
