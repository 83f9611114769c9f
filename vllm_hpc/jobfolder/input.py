"""Reads the input of a submitted job by position, from the copy in its folder or from the referenced files.

input.json names the files and has a digest of each block, so only rows that were checked are run.
"""

from __future__ import annotations

import io
import os
from bisect import bisect_right
from collections.abc import Iterator
from itertools import pairwise
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.rows.blocks import BLOCK_ROWS, Block, digest_of
from vllm_hpc.rows.jsonl import numbered_lines, rows_of_lines
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.rows.row_maker import RowMaker
from vllm_hpc.rows.unpack import UnpackError, unpack_frame
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.read_file import open_regular

_ADVICE = "changed since the job was submitted: restore it, or submit a new job"
_RESTORE = "restore it, or submit a new job"
# Bytes of an input.json: of some 100 for each block, of a thousand rows and more.
_MOST_INDEX = 1 << 30
# Bytes of a block, which ends at 4 MiB, or with the row that passes them.
_MOST_BLOCK = 4 << 30
# Bytes of a file: more than any has, and what can be sought.
_MOST_FILE = 1 << 62
# The only ``compression`` of an input.json, besides none.
ZSTD_FRAMES = "zstd"
# The ``ids`` of an input.json: each row's is its number, or input.ids has a sum of each.
IDS_ARE_NUMBERS, IDS_HAVE_SUMS = "numbers", "crc32"


class IndexedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of several that are referenced; ``row`` is the index of its first row, the rest as in InputIndex."""

    path: str
    size: int
    row: int
    format: str
    blocks: tuple[Block, ...]

    def holds(self, end: int) -> bool:
        """Whether its blocks follow each other, and hold the rows up to ``end``."""
        rows, offsets = [block.row for block in self.blocks], [block.offset for block in self.blocks]
        begins = not self.blocks or (rows[0], offsets[0]) == (self.row, 0)
        rises = all(one <= after for one, after in pairwise((self.row, *rows, end)))
        is_file = all(one <= after for one, after in pairwise((0, *offsets, self.size, _MOST_FILE)))
        return begins and rises and is_file and (bool(self.blocks) or end == self.row) and _is_path(self.path)


class InputIndex(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """input.json. ``path`` is absolute, or relative to the job folder; ``size`` in bytes, as stored.

    ``format``: rows (normalised by vllm-hpc), jsonl, txt or openai. ``blocks``: see rows/blocks.py. ``compression``:
    zstd if each block is a frame of its own. Several referenced files are in ``files``, instead of ``path``.
    ``reading``: how the rows of files that were not copied become prompts. ``ids``: see jobfolder/row_ids.py.
    ``source``: of what a sorted copy is one (jobfolder/row_order.py).
    """

    path: str = ""
    size: int = 0
    rows: int
    format: str = ""
    blocks: tuple[Block, ...] = ()
    compression: str = ""
    files: tuple[IndexedFile, ...] = ()
    reading: Reading = AS_IT_IS
    ids: str = ""
    source: str = ""

    def is_sound(self) -> bool:
        """Whether its blocks hold all rows, one after the other."""
        parts = self.parts
        ends = (*(part.row for part in parts[1:]), self.rows)
        known = not self.compression or self.compression == ZSTD_FRAMES
        return known and parts[0].row == 0 and all(part.holds(end) for part, end in zip(parts, ends, strict=True))

    @property
    def parts(self) -> tuple[IndexedFile, ...]:
        """The files, of which there may be only one."""
        one = IndexedFile(path=self.path, size=self.size, row=0, format=self.format, blocks=self.blocks)
        return self.files or (one,)


class _Stored(NamedTuple):
    """A block and its file. ``rows``, ``size``: of the block; ``last_line`` is None for the last one of a file."""

    file: Path
    format: str
    block: Block
    rows: int
    size: int
    last_line: int | None

    def read(self) -> bytes:
        """Its bytes as they are stored. Raises InputError if they have changed."""
        if not 0 <= self.size <= _MOST_BLOCK:
            raise InputError(f"{self.file}: a block of {self.size} bytes: {_ADVICE}")
        try:
            with open_regular(self.file) as stream:
                stream.seek(self.block.offset)
                data = stream.read(self.size)
        except OSError as error:
            raise _cannot_read(self.file, error) from None
        if digest_of(data) != self.block.digest:
            until = "and what follows" if self.last_line is None else f"to {self.last_line}"
            raise InputError(f"{self.file}: line {self.block.line} {until}: {_ADVICE}")
        return data


class _Index:
    """The index of a job's input, with its files found. Raises InputError."""

    def __init__(self, folder: JobFolder, path: Path | None = None) -> None:
        self.index = read_index(folder, path)
        self.parts = self.index.parts
        self.files = [folder.path / part.path for part in self.parts]

    def find(self, place: int) -> tuple[int, int]:
        """The numbers of the file and of its block that contain row ``place``."""
        # A file or block without rows begins at the same row as the next one; bisect_right skips it.
        part = bisect_right(self.parts, place, key=attrgetter("row")) - 1
        return part, bisect_right(self.parts[part].blocks, place, key=attrgetter("row")) - 1

    def stored(self, part: int, number: int) -> _Stored:
        """A block of a file."""
        found, last = self.parts[part], part + 1 == len(self.parts)
        block, following = found.blocks[number], found.blocks[number + 1 : number + 2]
        if following:
            (end,) = following
            row, offset, line = end.row, end.offset, end.line - 1
        else:
            row, offset, line = self.index.rows if last else self.parts[part + 1].row, found.size, None
        return _Stored(self.files[part], found.format, block, row - block.row, offset - block.offset, line)

    def each(self) -> Iterator[_Stored]:
        """All blocks, in order."""
        for part, found in enumerate(self.parts):
            yield from (self.stored(part, number) for number in range(len(found.blocks)))

    def check_size(self) -> None:
        """Refuse a file that is missing or has another size."""
        for file, part in zip(self.files, self.parts, strict=True):
            try:
                size = file.stat().st_size
            except OSError as error:
                raise _cannot_read(file, error) from None
            if size != part.size:
                raise InputError(f"{file} has {size} bytes, but had {part.size}: {_ADVICE}")


class InputReader:
    """Reads rows by position, a block at a time; the last block is kept, so sequential ranges are fast.

    ``path``: another index than input.json.
    """

    def __init__(self, folder: JobFolder, path: Path | None = None) -> None:
        self._index = _Index(folder, path)
        self._loaded: tuple[int, int] | None = None
        self._first = 0
        self._rows: list[Row] = []

    def rows(self, first: int, count: int) -> list[Row]:
        """Rows ``first`` to ``first + count - 1``, or to the last. Raises InputError if a file has changed."""
        stop = min(first + count, self._index.index.rows)
        found: list[Row] = []
        while (place := first + len(found)) < stop:
            self._load(place)
            found += self._rows[place - self._first : stop - self._first]
        return found

    def _load(self, place: int) -> None:
        """Load the block that contains row ``place``."""
        found = self._index.find(place)
        if found != self._loaded:
            self._loaded = None
            stored = self._index.stored(*found)
            self._rows, self._first = self._read(stored), stored.block.row
            self._loaded = found

    def _read(self, stored: _Stored) -> list[Row]:
        """The rows of a block. Another number than expected comes from another version: the digest matched."""
        data = stored.read()
        if self._index.index.compression == ZSTD_FRAMES:
            data = self._unpacked(data, stored)
        lines = numbered_lines(io.BytesIO(data), stored.file, stored.block.line)
        maker = RowMaker(stored.format, self._index.index.reading, Notes(lambda number: f"{stored.file}:{number}"))
        rows = [row for _, row in rows_of_lines(lines, maker, stored.file, stored.block.row)]
        if len(rows) != stored.rows:
            raise InputError(
                f"{stored.file}: {len(rows)} rows from line {stored.block.line}, not {stored.rows}: submit a new job"
            )
        return rows

    @staticmethod
    def _unpacked(data: bytes, stored: _Stored) -> bytes:
        try:
            return unpack_frame(data, _MOST_BLOCK)
        except UnpackError as error:
            raise InputError(f"{stored.file}: from line {stored.block.line}: {error}: {_RESTORE}") from None


def _is_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:
        return False


def iter_rows(folder: JobFolder) -> Iterator[Row]:
    """All normalised rows of a job, in order. Raises InputError if a file has changed."""
    reader = InputReader(folder)
    for stored in _Index(folder).each():
        yield from reader.rows(stored.block.row, stored.rows)


def read_index(folder: JobFolder, path: Path | None = None) -> InputIndex:
    """Read input.json, or another index. Raises InputError."""
    path = path or folder.input_json
    index = read_json(path, InputIndex, _MOST_INDEX)
    if index is None:
        raise InputError(f"cannot read {path}: submit the job again")
    # Memory is taken for each row that there is said to be.
    if not 0 <= index.rows <= BLOCK_ROWS * sum(len(part.blocks) for part in index.parts):
        raise InputError(f"{path} has no blocks for {index.rows} rows: {_RESTORE}")
    if not index.is_sound():
        raise InputError(f"{path} is damaged, its blocks do not follow each other: {_RESTORE}")
    return index


def check_rows(folder: JobFolder, index: InputIndex) -> None:
    """Refuse a job.json that says another number of rows than input.json. Raises InputError, JobNotFoundError."""
    rows = folder.job().rows
    if rows != index.rows:
        raise InputError(f"{folder.job_json} says {rows} rows, and {folder.input_json} {index.rows}: {_RESTORE}")


def check_size(folder: JobFolder) -> None:
    """A quick check: refuse an input of which a file is missing or has another size. Raises InputError."""
    _Index(folder).check_size()


def check_unchanged(folder: JobFolder, path: Path | None = None) -> None:
    """A full check: refuse an input whose size or any block has changed. Raises InputError.

    ``path``: another index than input.json.
    """
    index = _Index(folder, path)
    index.check_size()
    for stored in index.each():
        stored.read()


def _cannot_read(file: Path, error: OSError) -> InputError:
    return InputError(f"cannot read {file}: {error.strerror}: {_RESTORE}")
