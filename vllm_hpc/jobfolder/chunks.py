"""Chunks: the pieces of an input that replicas claim, each a few rows that run one after the other."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Protocol

import msgspec

from vllm_hpc.jobfolder.row_order import ChunkSize, RowOrder

# Chunks per replica, enough that replicas end together (a lease is a file, so arrays have fewer and larger ones), and
# the most rows in a chunk, because it is read ahead.
_CHUNKS_A_REPLICA, _LEASES_A_REPLICA = 128, 32
_LARGEST_CHUNK = 1024
# A chunk may be larger to hold a family whole, up to one of so many parts of a replica's share.
_PARTS_OF_A_SHARE = 16


class Chunks(Protocol):
    """The rows of a job in chunks, numbered from 0; ``size`` is the most rows that one has."""

    @property
    def count(self) -> int:
        """The number of chunks."""

    @property
    def size(self) -> int:
        """The most rows of a chunk."""

    def rows(self, chunk: int) -> Sequence[int]:
        """The rows of a chunk, in the order in which they run."""

    def part(self, replica: int, replicas: int) -> Sequence[int]:
        """The chunks that a replica takes first."""


class EvenChunks(msgspec.Struct, frozen=True):
    """The input in its own order, in chunks of ``size`` rows; the last may be shorter."""

    total: int
    size: int

    @classmethod
    def of(cls, total: int, replicas: int, is_array: bool) -> EvenChunks:
        """Chunks for that many rows and replicas."""
        return cls(total, chunk_size(total, replicas, is_array).least)

    @property
    def count(self) -> int:
        """The number of chunks."""
        return -(-self.total // self.size)

    def rows(self, chunk: int) -> range:
        """The rows of a chunk."""
        return range(chunk * self.size, min(self.total, (chunk + 1) * self.size))

    def part(self, replica: int, replicas: int) -> range:
        """The chunks that a replica takes first."""
        return range(replica * self.count // replicas, (replica + 1) * self.count // replicas)


class OrderedChunks:
    """The chunks of a stored order; a replica's part is about as much work as another's, of each section."""

    def __init__(self, order: RowOrder, rows: array[int]) -> None:
        self._rows, self._sections = rows, order.sections
        self._ends = [*order.starts, order.rows]
        self._done = [0, *accumulate(order.weights)]  # the weight of all chunks before each
        self.size = max(end - start for start, end in pairwise(self._ends))

    @property
    def count(self) -> int:
        """The number of chunks."""
        return len(self._ends) - 1

    def rows(self, chunk: int) -> Sequence[int]:
        """The rows of a chunk; none of one that is not there, which a damaged record may name."""
        if not 0 <= chunk < self.count:
            return ()
        return self._rows[self._ends[chunk] : self._ends[chunk + 1]]

    def part(self, replica: int, replicas: int) -> Sequence[int]:
        """The chunks that a replica takes first: neighbours, so that a family is in one part, or two."""
        sections = enumerate(pairwise((*self._sections, self.count)))
        return [
            chunk for number, ends in sections for chunk in self._share(*ends, (replica + number) % replicas, replicas)
        ]

    def _share(self, begin: int, end: int, share: int, shares: int) -> range:
        """One of a section's equal shares: the chunks of which the middle is in it, by weight.

        Each section's first share is the next replica's, so that sections of a single chunk are not all one's.
        """
        first, whole = self._done[begin], self._done[end] - self._done[begin]
        cuts = (first + whole * number / shares for number in (share, share + 1))
        return range(*(begin + bisect_left(range(begin, end), cut, key=self._middle) for cut in cuts))

    def _middle(self, chunk: int) -> float:
        return (self._done[chunk] + self._done[chunk + 1]) / 2


def chunk_size(total: int, replicas: int, is_array: bool) -> ChunkSize:
    """The size of chunks for that many rows and replicas."""
    if is_array:
        size = max(1, -(-total // (replicas * _LEASES_A_REPLICA)))
        return ChunkSize(size, 2 * size)
    size = max(1, min(_LARGEST_CHUNK, total // (replicas * _CHUNKS_A_REPLICA)))
    return ChunkSize(size, max(size, min(_LARGEST_CHUNK, total // (replicas * _PARTS_OF_A_SHARE))))
