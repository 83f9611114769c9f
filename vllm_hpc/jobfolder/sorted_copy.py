"""The copy of a job's input in the order in which its rows run, so that ranks read it from beginning to end.

Rows of a shuffled input would otherwise be read from everywhere, and a block of thousands for each. Memory is bounded:
rows that are too many to be sorted in it are dealt to parts by their place, and each part is sorted, or dealt again.
"""

from __future__ import annotations

import shutil
from array import array
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from struct import Struct
from typing import BinaryIO

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import ZSTD_FRAMES, InputIndex, check_rows, check_unchanged, iter_rows, read_index
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.row_order import places_of, read_order, source_of
from vllm_hpc.rows.blocks import BlockMaker
from vllm_hpc.rows.unpack import pack_frame, unpack_frame
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.write_file import open_new, replacing, temporary_name

# Bytes of rows that are sorted in memory; there are at most so many parts at once, each an open file.
_PART_BYTES, _MOST_PARTS = 64 << 20, 256
# Bytes of a part that are packed at once, so that little is read again; 256 such pieces wait in memory.
_PIECE_BYTES = 64 << 10
# Before a row in a piece: its place, and the bytes of its line. Before a piece: its bytes in the file.
_HEAD, _SIZE = Struct("<QQ"), Struct("<Q")
# Bytes on the disk for each byte of the input: the copy, and the parts until it is written.
ROOM = 2.1


def write_sorted(folder: JobFolder, rows: array[int]) -> None:
    """Write the copy and its index. ``rows``: the row of each place. Raises InputError, OSError."""
    is_packed = not folder.input.exists()  # so large that it is referenced, or packed itself
    path, places = folder.sorted_zst if is_packed else folder.sorted, places_of(rows)
    maker = BlockMaker(pack_frame) if is_packed else BlockMaker()
    with replacing(path) as file:
        for line in _in_order(_encoded(folder, places), 0, len(rows), path):
            file.write(maker.add(line, is_row=True))
        file.write(maker.finish())
    found = InputIndex(
        path=path.name, size=maker.size, rows=maker.rows, format="rows", blocks=tuple(maker.blocks),
        compression=ZSTD_FRAMES if is_packed else "", source=source_of(folder, places),
    )  # fmt: skip
    write_json(folder.sorted_json, found)


def restore_sorted(folder: JobFolder) -> str | None:
    """Write the copy again where it, or its index, is gone or damaged. Returns what was done, if anything.

    Raises InputError if the order has changed, or there is no room.
    """
    rows = folder.job().rows
    check_rows(folder, read_index(folder))
    _, order = read_order(folder, rows)
    with suppress(InputError):
        check_unchanged(folder, folder.sorted_json)
        index = read_index(folder, folder.sorted_json)
        if index.rows == rows and index.source == source_of(folder, places_of(order)):
            return None
    try:
        write_sorted(folder, order)
    except OSError as error:
        what = "remove that folder" if isinstance(error, IsADirectoryError) else "make room"
        raise InputError(
            f"cannot write {error.filename2 or folder.path}, of the sorted copy of the input, again: "
            f"{error.strerror or error}: {what}, or submit a new job"
        ) from None
    return "the sorted copy of the input was gone or damaged, and was written again"


def has_room(path: Path, size: int) -> bool:
    """Whether the copy of an input of ``size`` bytes fits on the disk of a folder, or of the first above it."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free > ROOM * size


def _encoded(folder: JobFolder, places: array[int]) -> Iterator[tuple[int, bytes]]:
    """Each row's place and line. A template may have made the line much longer than the row in the input's files."""
    encoder = msgspec.json.Encoder()
    return ((places[number], encoder.encode(row) + b"\n") for number, row in enumerate(iter_rows(folder)))


def _in_order(pairs: Iterator[tuple[int, bytes]], first: int, stop: int, beside: Path) -> Iterator[bytes]:
    """The lines of places ``first`` to ``stop - 1`` by their place; parts are files ``beside`` a path."""
    held: deque[tuple[int, bytes]] = deque()
    size = 0
    for pair in pairs:
        held.append(pair)
        size += len(pair[1])
        if size > _PART_BYTES and stop - first > 1:
            break
    else:
        yield from (line for _, line in sorted(held))
        return
    with ExitStack() as stack:
        # Half full by what is known of the rows' size: a part with longer ones can still be sorted at once.
        count = min(_MOST_PARTS, stop - first, 1 + 2 * size * (stop - first) // (len(held) * _PART_BYTES))
        parts = [stack.enter_context(_Part(beside)) for _ in range(count)]
        for place, line in chain(_emptied(held), pairs):
            parts[(place - first) * count // (stop - first)].add(place, line)
        for part in parts:
            part.close()
        starts = [first - (-number * (stop - first) // count) for number in range(count + 1)]
        for number, part in enumerate(parts):
            yield from _in_order(part.pairs(), starts[number], starts[number + 1], beside)


def _emptied(held: deque[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Its items, which it holds no longer."""
    while held:
        yield held.popleft()


class _Part:
    """The rows of neighbouring places, packed in a file that goes when it was read."""

    def __init__(self, beside: Path) -> None:
        self._path = temporary_name(beside)
        self._file: BinaryIO = open_new(self._path, 0o600)
        self._piece, self._most = bytearray(), 0

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        with suppress(OSError):  # the disk is full: what is not written is not read
            self._file.close()

    def add(self, place: int, line: bytes) -> None:
        """Add a row. Raises OSError."""
        self._piece += _HEAD.pack(place, len(line))
        self._piece += line
        if len(self._piece) >= _PIECE_BYTES:
            self._write()

    def close(self) -> None:
        """End it: all its rows were added. Raises OSError."""
        self._write()
        self._file.close()

    def _write(self) -> None:
        if self._piece:
            frame = pack_frame(bytes(self._piece))
            self._file.write(_SIZE.pack(len(frame)) + frame)
            self._most = max(self._most, len(self._piece))
            self._piece.clear()

    def pairs(self) -> Iterator[tuple[int, bytes]]:
        """Its places and lines, as they were added, once. Raises OSError."""
        with open_regular(self._path) as file:
            while head := file.read(_SIZE.size):
                yield from _lines(unpack_frame(file.read(*_SIZE.unpack(head)), self._most))
        self._path.unlink(missing_ok=True)


def _lines(piece: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start < len(piece):
        place, size = _HEAD.unpack_from(piece, start)
        start += _HEAD.size + size
        yield place, piece[start - size : start]
