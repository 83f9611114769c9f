"""The copy of a job's input in the order in which its rows run, so that ranks read it from beginning to end.

Rows of a shuffled input would otherwise be read from everywhere, and a block of thousands for each. The copy is made in
two passes with bounded memory: rows are dealt to parts by their place, then each part is sorted and written.
"""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import ZSTD_FRAMES, InputIndex, iter_rows, read_index
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.row_order import places_of
from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.unpack import pack_frame
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.write_file import open_new, replacing, temporary_name

# Bytes of a part, which is sorted in memory; of a large input there are at most so many parts, each an open file.
_PART_BYTES, _MOST_PARTS = 64 << 20, 256
# Before a row in a part: its place, and the bytes of its line.
_HEAD = Struct("<QQ")
# Bytes on the disk for each byte of the input: the copy, and the parts until it is written.
ROOM = 2.1


def write_sorted(folder: JobFolder, rows: array[int]) -> None:
    """Write the copy and its index. ``rows``: the row of each place. Raises InputError, OSError."""
    index = read_index(folder)
    size = sum(part.size for part in index.parts)
    is_packed = not folder.input.exists()  # so large that it is referenced, or packed itself
    count = max(1, min(_MOST_PARTS, size // _PART_BYTES))
    path = folder.sorted_zst if is_packed else folder.sorted
    maker = BlockMaker(pack_frame) if is_packed else BlockMaker()
    with replacing(path) as file:
        for line in _in_order(folder, rows, count):
            file.write(maker.add(line, is_row=True))
        file.write(maker.finish())
    found = InputIndex(
        path=path.name, size=maker.size, rows=maker.rows, format="rows", blocks=tuple(maker.blocks),
        compression=ZSTD_FRAMES if is_packed else "",
    )  # fmt: skip
    write_json(folder.sorted_json, found)


def has_room(path: Path, size: int) -> bool:
    """Whether the copy of an input of ``size`` bytes fits on the disk of a folder, or of the first above it."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free > ROOM * size


def _in_order(folder: JobFolder, rows: array[int], count: int) -> Iterator[bytes]:
    places, encoder = places_of(rows), msgspec.json.Encoder()
    lines = ((places[number], encoder.encode(row) + b"\n") for number, row in enumerate(iter_rows(folder)))
    if count == 1:
        yield from (line for _, line in sorted(lines))
        return
    with ExitStack() as stack:
        parts = [stack.enter_context(_Part(folder.sorted)) for _ in range(count)]
        for place, line in lines:
            parts[place * count // len(rows)].add(place, line)
        for part in parts:
            yield from part.sorted()


class _Part:
    """The rows of neighbouring places, in a file that goes when it was read."""

    def __init__(self, beside: Path) -> None:
        self._path = temporary_name(beside)
        self._file: BinaryIO = open_new(self._path, 0o600)

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink(missing_ok=True)

    def add(self, place: int, line: bytes) -> None:
        """Add a row."""
        self._file.write(_HEAD.pack(place, len(line)))
        self._file.write(line)

    def sorted(self) -> Iterable[bytes]:
        """Its lines by their place."""
        self._file.close()
        with open_regular(self._path) as file:
            found = sorted(_pairs(file))
        self._path.unlink(missing_ok=True)
        return (line for _, line in found)


def _pairs(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    while head := file.read(_HEAD.size):
        place, size = _HEAD.unpack(head)
        yield place, file.read(size)
