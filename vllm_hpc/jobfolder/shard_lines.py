"""Reads lines of shards by their place (shards.py), in any order.

Rows finish nearly in input order, so rows that are requested together are in a few regions of a few shards: chunks
around them are read once and kept for a while, instead of one seek and read per row.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from vllm_hpc.jobfolder.shards import split_place
from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import open_in_folder

# Chunks are aligned, so the upper bits of a place are its chunk number.
_CHUNK_BITS = 17
_CHUNK = 1 << _CHUNK_BITS
# Extra bytes read after a chunk, so that the last line that begins in it is nearly always complete.
_BEYOND = 4096
_CHUNKS_KEPT = 256
# If rows are in random order, reading whole chunks does not pay: it stops at this many bytes read per byte used.
_WASTE = 8
_FILES_OPEN = 256


class LineReader:
    """Reads lines of shards. A context manager; raises CollectError if a shard has changed."""

    def __init__(self, shards: list[Path]) -> None:
        self._shards = shards
        self._files: dict[int, int] = {}
        self._chunks: dict[int, bytes] = {}
        # May fall below zero by the size of one chunk.
        self._may_waste = _CHUNKS_KEPT * _CHUNK

    def __enter__(self) -> LineReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for file in self._files.values():
            os.close(file)

    def read(self, places: Sequence[int]) -> Iterator[bytes]:
        """The lines at these places, in this order, many joined per item."""
        self._load({place >> _CHUNK_BITS for place in places})
        chunks, within, nothing = self._chunks, _CHUNK - 1, b""
        found: list[bytes] = []
        for place in places:
            start = place & within
            chunk = chunks.get(place >> _CHUNK_BITS, nothing)
            end = chunk.find(b"\n", start) + 1
            if end:
                found.append(chunk[start:end])
            else:  # a long or isolated line is yielded alone: several might not fit into memory
                yield self._give(found)
                found = []
                yield self._read_line(place)
        yield self._give(found)
        self._forget()

    def _give(self, lines: list[bytes]) -> bytes:
        data = b"".join(lines)
        self._may_waste += _WASTE * len(data)
        return data

    def _load(self, numbers: set[int]) -> None:
        """Load these chunks, as far as that pays, and mark them as most recently used."""
        for number in sorted(numbers):
            chunk = self._chunks.pop(number, None)
            if chunk is None:
                if self._may_waste < 0 or len(self._chunks) > 2 * _CHUNKS_KEPT:
                    continue
                shard, offset = split_place(number << _CHUNK_BITS)
                chunk = self._pread(shard, offset, _CHUNK + _BEYOND)
                self._may_waste -= len(chunk)
            self._chunks[number] = chunk

    def _forget(self) -> None:
        for number in list(self._chunks)[:-_CHUNKS_KEPT]:
            del self._chunks[number]

    def _read_line(self, place: int) -> bytes:
        shard, offset = split_place(place)
        pieces, size = [], _BEYOND
        while data := self._pread(shard, offset, size):
            end = data.find(b"\n") + 1
            pieces.append(data[:end] if end else data)
            if end:
                return self._give(pieces)
            offset += len(data)
            size = min(2 * size, 1 << 24)
        raise CollectError(
            f"{self._shards[shard]} became shorter while it was read: does something else write to it? Collect again"
        )

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        try:
            return os.pread(self._open(shard), size, offset)
        except OSError as error:
            raise CollectError(f"cannot read {self._shards[shard]}: {error.strerror}") from None

    def _open(self, shard: int) -> int:
        file = self._files.get(shard)
        if file is None:
            if len(self._files) >= _FILES_OPEN:
                os.close(self._files.pop(next(iter(self._files))))
            with open_in_folder(self._shards[shard]) as opened:
                file = self._files[shard] = os.dup(opened.fileno())
        return file
