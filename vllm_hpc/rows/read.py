"""Reads files of prompts in any format as normalised rows.

``jsonl`` reads .jsonl, .txt and OpenAI batch files (``openai_batch``, ``openai_sampling``), ``tables`` .csv and
.parquet (``cells``); ``plain`` checks a row, ``ids`` checks that ids are unique, ``blocks`` splits a file into pieces.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from vllm_hpc.rows.ids import Id, UniqueIds
from vllm_hpc.rows.jsonl import LineSource
from vllm_hpc.rows.row import SAMPLE_PROMPTS, Row
from vllm_hpc.rows.tables import CsvSource, ParquetSource
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.values import as_path

Source = LineSource | CsvSource | ParquetSource
SUFFIXES = (".jsonl", ".txt", ".csv", ".parquet")
_KINDS = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
_COMPRESSED = {
    b"\x1f\x8b": "unpack it first, with gunzip",
    b"BZh": "unpack it first, with bunzip2",
    b"\xfd7zXZ": "unpack it first, with unxz",
    b"\x28\xb5\x2f\xfd": "unpack it first, with unzstd",
    b"PK\x03\x04": "unpack it first, or save a spreadsheet as .csv",
}


def read_rows(path: str | None) -> Iterator[Row]:
    """Read and check an input file, row by row, normalised; None gives the sample prompts.

    Raises InputError at the first invalid row; it names file and line.
    """
    return sample_rows() if path is None else checked_rows(find_source(path))


def check_rows(path: str | None) -> int:
    """Check every row of an input and count the rows. Raises InputError."""
    return sum(1 for _ in read_rows(path))


def sample_rows() -> Iterator[Row]:
    """The rows of a job without an input."""
    yield from ({"index": index, "id": str(index), "prompt": text} for index, text in enumerate(SAMPLE_PROMPTS))


def find_source(path: str) -> Source:
    """The reader for a file. Raises InputError if its format is not supported."""
    file = find_file(path)
    suffix = file.suffix.lower()
    try:
        _check_head(file)
        if suffix == ".parquet":
            return ParquetSource(file)
        return CsvSource(file) if suffix == ".csv" else LineSource(file)
    except OSError as error:
        raise _cannot_read(file, error) from None


def find_file(path: str) -> Path:
    """The path of an input that exists and is a regular file. Raises InputError."""
    file = as_path(path, "--input")
    if not _is_utf8(os.path.abspath(file)):  # noqa: PTH100 - as it will be written into input.json
        raise InputError(f"input {str(file)!r}: its path is not valid UTF-8: rename it")
    if not file.exists():
        raise InputError(f"no such input: {str(file)!r}: give a {_KINDS} file")
    if file.is_dir():
        raise InputError(f"input {str(file)!r} is a folder: give a {_KINDS} file")
    if not file.is_file():
        raise InputError(
            f"input {str(file)!r} is a pipe or a device, but an input is read more than once: write it to a file"
        )
    return file


def _is_utf8(path: str) -> bool:
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def checked_rows(source: Source, check_ids: bool = True) -> Iterator[Row]:
    """The rows of a source, all checked; ids too, unless they were checked before. Raises InputError.

    With very many rows, a repeated id is reported only after the last row.
    """
    unique = UniqueIds()
    index = -1
    try:
        before = fingerprint(source.file)
        for index, (number, row) in enumerate(source.rows()):
            if check_ids and not unique.add(index, row["id"]):
                raise _repeated(source, number, row["id"])
            yield row
        if index < 0:
            raise InputError(f"{source.file} has no prompt: write one row per line")
        if repeated := unique.first_repeated(lambda: _ids(source)):
            raise _repeated(source, *repeated)
        if fingerprint(source.file) != before:
            raise InputError(f"{source.file} changed while it was read: wait until it is complete, and submit again")
    except OSError as error:
        raise _cannot_read(source.file, error) from None


def fingerprint(file: Path) -> tuple[int, ...]:
    """Values that change when a file is written to or replaced. Raises OSError."""
    found = os.stat(file)  # noqa: PTH116 - the same as Path.stat, but faster
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _ids(source: Source) -> Iterator[tuple[int, Id]]:
    return ((number, row["id"]) for number, row in source.rows())


def _repeated(source: Source, number: int, identity: Id) -> InputError:
    return InputError(f"{source.place(number)}: id {identity!r} was given before: ids must differ (or be left out)")


def _check_head(file: Path) -> None:
    """Refuse compressed files, whatever their name, and unknown suffixes."""
    with file.open("rb") as stream:
        head = stream.read(8)
    for magic, advice in _COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(f"input {str(file)!r} is compressed: {advice}")
    if file.suffix.lower() not in SUFFIXES:
        raise InputError(f"input {str(file)!r}: only {_KINDS} can be read: convert it to one of them")


def _cannot_read(file: Path, error: OSError) -> InputError:
    return InputError(f"cannot read input {str(file)!r}: {error.strerror or error}")
