"""order.json and order.rows: the order in which a job's rows run, where it is not the input's.

order.rows has the row of each place, in four bytes; order.json its digest, and the chunks: ranges of places, cut where
a family of rows that share a beginning ends. They are made once, at submission, and serve every attempt: what an
earlier one has begun is known by the chunks that it claimed.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby, pairwise
from operator import attrgetter

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, read_index
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.rows.blocks import digest_of
from vllm_hpc.rows.families import Placed
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.read_file import open_regular, read_regular
from vllm_hpc.spec.write_file import replacing

# What generating a token costs in prompt tokens, for shares of replicas that end together: the 8B shape on an H200
# prefills some 43,000 tokens a second and generates 15,000 (docs/performance.md).
_OUTPUT_WEIGHT = 3
# The rows that order.rows can name, and the bytes of an order.json: of some 16 for each chunk.
MOST_ROWS = 1 << 32
_MOST_INDEX = 1 << 30
# The weight of a chunk: of MOST_ROWS rows whose tokens are counted in four bytes (rows/prefix_scan.py) there is none.
_MOST_WEIGHT = 1 << 68
_RESTORE = "restore it, or submit a new job"
_REMOVE = "remove it, and resume the job, which writes it again"


class ChunkSize(msgspec.Struct, frozen=True):
    """The rows of a chunk: at least ``least``, unless a section ends, and at most ``most``, where families allow it."""

    least: int
    most: int


class RowOrder(msgspec.Struct, frozen=True, kw_only=True):
    """order.json. ``starts``: the place of each chunk's first row; ``weights``: how long each takes, to the others.

    ``sections``: the chunks with which a section begins, the rows of which have shorter outputs than those before.
    """

    rows: int
    digest: str
    starts: tuple[int, ...]
    weights: tuple[int, ...]
    sections: tuple[int, ...]

    def is_sound(self) -> bool:
        """Whether its numbers are of one piece: the chunks cover all places, and the sections all chunks."""
        chunks = len(self.starts)
        return (
            0 < self.rows <= MOST_ROWS
            and len(self.weights) == chunks > 0
            and all(0 < weight < _MOST_WEIGHT for weight in self.weights)
            and _rises(self.starts, self.rows)
            and _rises(self.sections, chunks)
        )


class _Cut:
    """Cuts rows in their order into chunks."""

    def __init__(self, size: ChunkSize) -> None:
        self._size = size
        self.starts, self.weights, self.sections = [0], [0], [0]
        self.places = array("I")

    def add(self, family: list[Placed]) -> None:
        """Add a family, whole where a chunk holds it."""
        if self._held and self._held + len(family) > self._size.most:
            self._end()
        for one in family:
            if self._held == self._size.most:
                self._end()
            self.places.append(one.row)
            self.weights[-1] += one.tokens + _OUTPUT_WEIGHT * one.output
        if self._held >= self._size.least:
            self._end()

    def begin_section(self) -> None:
        """What follows has shorter outputs."""
        if self.places:
            self._end()
            self.sections.append(len(self.starts) - 1)

    def finish(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """The starts, weights and sections."""
        if not self._held:
            del self.starts[-1], self.weights[-1]
        return tuple(self.starts), tuple(self.weights), tuple(self.sections)

    @property
    def _held(self) -> int:
        return len(self.places) - self.starts[-1]

    def _end(self) -> None:
        if self._held:
            self.starts.append(len(self.places))
            self.weights.append(0)


def store_order(folder: JobFolder, rows: Iterable[Placed], size: ChunkSize) -> array[int]:
    """Store the order of rows with its chunks. Returns the row of each place."""
    cut = _Cut(size)
    for _, section in groupby(rows, attrgetter("length")):
        cut.begin_section()
        for _, family in groupby(section, attrgetter("family")):
            cut.add(list(family))
    starts, weights, sections = cut.finish()
    data = _in_file(cut.places).tobytes()
    with replacing(folder.order_rows) as file:
        file.write(data)
    order = RowOrder(rows=len(cut.places), digest=digest_of(data), starts=starts, weights=weights, sections=sections)
    write_json(folder.order, order)
    return cut.places


def read_order(folder: JobFolder, rows: int) -> tuple[RowOrder, array[int]]:
    """The order of a job with that many rows, and the row of each place. Raises InputError."""
    order = read_json(folder.order, RowOrder, _MOST_INDEX)
    if order is None or order.rows != rows or not order.is_sound():
        raise InputError(f"{folder.order} is not the order of {rows} rows: {_RESTORE}")
    try:
        with open_regular(folder.order_rows, follow_links=False) as file:
            data = file.read(rows * 4 + 1)
    except OSError as error:
        raise InputError(f"cannot read {folder.order_rows}: {error.strerror}: {_RESTORE}") from None
    if len(data) != rows * 4 or digest_of(data) != order.digest:
        raise InputError(f"{folder.order_rows} changed since the job was submitted: {_RESTORE}")
    found = _in_file(array("I", data))
    if not _is_each_once(found):
        raise InputError(f"{folder.order_rows} does not have each row once: {_RESTORE}")
    return order, found


def _is_each_once(rows: array[int]) -> bool:
    seen = bytearray(len(rows))
    try:
        for row in rows:
            seen[row] = 1
    except IndexError:
        return False
    return 0 not in seen


def places_of(rows: array[int]) -> array[int]:
    """The place of each row, of rows of which each is there once."""
    places = array("I", bytes(4 * len(rows)))
    for place, row in enumerate(rows):
        places[row] = place
    return places


def source_of(folder: JobFolder, places: array[int]) -> str:
    """A digest of the job's input and of the places of its rows, of which the sorted copy is one. Raises InputError."""
    try:
        index = read_regular(folder.input_json, _MOST_INDEX, follow_links=False)
    except OSError as error:
        raise InputError(f"cannot read {folder.input_json}: {error.strerror}: {_RESTORE}") from None
    return digest_of(f"{digest_of(index)} {digest_of(_in_file(places).tobytes())}".encode())


class OrderedInput:
    """Reads rows by their number from the copy that is in the order in which they run; for one thread.

    ``places``: the place of each row. Raises InputError if the copy is of another input or order.
    """

    def __init__(self, folder: JobFolder, places: array[int]) -> None:
        self._file = folder.sorted_json
        if read_index(folder, self._file).source != source_of(folder, places):
            raise self._is_other()
        self._reader, self._places = InputReader(folder, self._file), places

    def rows(self, first: int, count: int) -> list[Row]:
        """Rows ``first`` to ``first + count - 1``, or to the last. Raises InputError if the copy has changed."""
        return list(self._each(first, self._places[first : first + count]))

    def _each(self, first: int, places: Iterable[int]) -> Iterator[Row]:
        for number, place in enumerate(places, first):
            for row in self._reader.rows(place, 1):
                if not isinstance(row, dict) or row.get("index") != number:
                    raise self._is_other()
                yield row

    def _is_other(self) -> InputError:
        return InputError(f"{self._file} is of another input or order: {_REMOVE}")


def _in_file(rows: array[int]) -> array[int]:
    """The rows as they are stored, little-endian; and back."""
    if sys.byteorder == "big":
        rows = array("I", rows)
        rows.byteswap()
    return rows


def _rises(numbers: tuple[int, ...], end: int) -> bool:
    return bool(numbers) and numbers[0] == 0 and all(one < after for one, after in pairwise((*numbers, end)))
