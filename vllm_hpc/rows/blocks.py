"""Blocks: pieces of an input that are read and checked one at a time.

A block ends at 4096 rows or 4 MiB, whichever comes first; together the blocks are the whole file, byte for byte. In a
compressed file each block is a frame of its own, which can be unpacked alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

BLOCK_ROWS = 4096
BLOCK_BYTES = 4 << 20


class Block(msgspec.Struct, frozen=True):
    """Where a block begins (first row, offset in the file, first line from 1), and the digest of its stored bytes."""

    row: int
    offset: int
    line: int
    digest: str


def digest_of(data: bytes) -> str:
    """The 128-bit blake2b digest, in hexadecimal."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


class BlockMaker:
    """Groups lines into blocks as they are read; ``pack`` makes of a block's bytes those that are stored."""

    def __init__(self, pack: Callable[[bytes], bytes] = bytes) -> None:
        self._pack = pack
        self.blocks: list[Block] = []
        self.rows = 0
        self.size = 0
        self._lines = 0
        self._start = (0, 0, 1)
        self._pending: list[bytes] = []
        self._bytes = 0

    def begin(self, row: int) -> None:
        """Number the rows from ``row``: other files come before this one."""
        self.rows = row
        self._start = (row, 0, 1)

    def add(self, raw: bytes, is_row: bool) -> bytes:
        """Add a line with its newline. Returns the stored bytes of the block that it completes, else no bytes."""
        self._pending.append(raw)
        self._bytes += len(raw)
        self.rows += is_row
        if self._bytes >= BLOCK_BYTES or self.rows - self._start[0] >= BLOCK_ROWS:
            return self.finish()
        return b""

    def finish(self) -> bytes:
        """End the current block, if there is one. Returns its stored bytes."""
        if not self._pending:
            return b""
        data = self._pack(b"".join(self._pending))
        self.blocks.append(Block(*self._start, digest_of(data)))
        self.size += len(data)
        self._lines += len(self._pending)
        self._start = (self.rows, self.size, self._lines + 1)
        self._pending, self._bytes = [], 0
        return data
