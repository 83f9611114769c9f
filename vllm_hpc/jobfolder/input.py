"""Reads the input of a submitted job by position, from the copy in its folder or from the referenced file.

input.json names the file and has a digest of each block, so only rows that were checked are run.
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import read_json
from vllm_hpc.rows.blocks import Block, digest_of
from vllm_hpc.rows.jsonl import numbered_lines, rows_of_lines
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

_ADVICE = "changed since the job was submitted: restore it, or submit a new job"


class InputIndex(msgspec.Struct, frozen=True, kw_only=True):
    """input.json. ``path`` is absolute, or relative to the job folder; ``size`` in bytes.

    ``format``: rows (normalised by vllm-hpc), jsonl, txt or openai. ``blocks``: see rows/blocks.py.
    """

    path: str
    size: int
    rows: int
    format: str
    blocks: tuple[Block, ...]


class InputReader:
    """Reads rows by position, a block at a time; the last block is kept, so sequential ranges are fast."""

    def __init__(self, folder: JobFolder) -> None:
        self.index = read_index(folder)
        self._file = folder.path / self.index.path
        self._number = -1
        self._rows: list[Row] = []

    def rows(self, first: int, count: int) -> list[Row]:
        """Rows ``first`` to ``first + count - 1``, or to the last. Raises InputError if the file has changed."""
        stop = min(first + count, self.index.rows)
        found: list[Row] = []
        while (place := first + len(found)) < stop:
            begin = self._load(place)
            found += self._rows[place - begin : stop - begin]
        return found

    def _load(self, place: int) -> int:
        """Load the block that contains row ``place``. Returns the block's first row."""
        blocks = self.index.blocks
        # A block without rows begins at the same row as the next one; bisect_right skips it.
        number = bisect_right(blocks, place, key=attrgetter("row")) - 1
        if number != self._number:
            self._rows = list(self._read(number))
            self._number = number
            self._check_rows(number)
        return blocks[number].row

    def _read(self, number: int) -> Iterator[Row]:
        block = self.index.blocks[number]
        data = _read_block(self._file, self.index, number)
        lines = numbered_lines(io.BytesIO(data), self._file, block.line)
        return (row for _, row in rows_of_lines(lines, self.index.format, self._file, block.row))

    def _check_rows(self, number: int) -> None:
        """Check the number of rows: the digest matched, so a difference comes from another version of vllm-hpc."""
        expected = _end(self.index, number, "row", self.index.rows) - self.index.blocks[number].row
        if len(self._rows) != expected:
            self._number = -1
            raise InputError(
                f"{self._file}: {len(self._rows)} rows in block {number}, not {expected}: submit a new job"
            )


def iter_rows(folder: JobFolder) -> Iterator[Row]:
    """All normalised rows of a job, in order. Raises InputError if the file has changed."""
    reader = InputReader(folder)
    index = reader.index
    for number, block in enumerate(index.blocks):
        yield from reader.rows(block.row, _end(index, number, "row", index.rows) - block.row)


def read_index(folder: JobFolder) -> InputIndex:
    """Read input.json. Raises InputError."""
    index = read_json(folder.input_json, InputIndex)
    if index is None:
        raise InputError(f"cannot read {folder.input_json}: submit the job again")
    return index


def input_file(folder: JobFolder) -> Path:
    """The file with the rows, in the job folder or at the user's path. Raises InputError."""
    return folder.path / read_index(folder).path


def check_size(folder: JobFolder) -> None:
    """A quick check: refuse an input that is missing or has another size. Raises InputError."""
    index = read_index(folder)
    _check_size(folder.path / index.path, index)


def check_unchanged(folder: JobFolder) -> None:
    """A full check: refuse an input whose size or any block has changed. Raises InputError."""
    index = read_index(folder)
    file = folder.path / index.path
    _check_size(file, index)
    for number in range(len(index.blocks)):
        _read_block(file, index, number)


def _check_size(file: Path, index: InputIndex) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise _cannot_read(file, error) from None
    if size != index.size:
        raise InputError(f"{file} has {size} bytes, but had {index.size}: {_ADVICE}")


def _read_block(file: Path, index: InputIndex, number: int) -> bytes:
    block = index.blocks[number]
    try:
        with file.open("rb") as stream:
            stream.seek(block.offset)
            data = stream.read(_end(index, number, "offset", index.size) - block.offset)
    except OSError as error:
        raise _cannot_read(file, error) from None
    if digest_of(data) != block.digest:
        last = _end(index, number, "line", 0) - 1
        raise InputError(f"{file}: line {block.line} {f'to {last}' if last > 0 else 'and what follows'}: {_ADVICE}")
    return data


def _end(index: InputIndex, number: int, field: str, last: int) -> int:
    """Where a block ends: where the next one begins; for the last block, at ``last``."""
    following = number + 1
    return int(getattr(index.blocks[following], field)) if following < len(index.blocks) else last


def _cannot_read(file: Path, error: OSError) -> InputError:
    return InputError(f"cannot read {file}: {error.strerror}: restore it, or submit a new job")
