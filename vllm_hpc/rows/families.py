"""Families: rows whose prompts begin alike, found in a list of rows that is sorted by prefix_key.

Sorted so, the rows that share a beginning are neighbours, and the beginnings that they share form a tree: a node is an
interval of the list, as long as the shared beginning stays at least as long. (The intervals of longest common prefixes
of a sorted list: Abouelhoda, Kurtz and Ohlebusch, "Replacing suffix trees with enhanced suffix arrays", 2004.)
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from math import log2
from struct import pack
from typing import NamedTuple

import msgspec

from vllm_hpc.rows.prefix import level_bytes

# Bytes per token of text, as in planner/workload.py; of tokens that are given as numbers it is exact.
BYTES_PER_TOKEN = 4
# The most rows of a family: of a larger node, the families are its parts. As many as the largest chunk has.
FAMILY_ROWS = 1024
# Members of a node whose distances are looked at one by one; of a larger one, their average counts.
_WINDOW = 65_536
_BUCKETS_A_DOUBLING = 4
# The least share of the prompt tokens for which rows are put in another order.
_WORTHWHILE = 0.01


class Beginning(NamedTuple):
    """A row of the sorted list. ``level``: the checksums that its key shares with that of the row before it there.

    ``before``: the prompt tokens of all rows before it in the input.
    """

    level: int
    row: int
    before: int
    tokens: int
    output: int


class Node(NamedTuple):
    """Rows ``start`` to ``end - 1`` of the sorted list share ``level`` checksums, and ``parent`` with their neighbours.

    ``first``: the first of them in the input; ``low``, ``high``: the least and the largest ``before``.
    """

    level: int
    parent: int
    start: int
    end: int
    first: int
    low: int
    high: int

    @property
    def tokens(self) -> int:
        """The shared tokens beyond those that its parent shares."""
        return level_tokens(self.level) - level_tokens(self.parent)


class Sharing(msgspec.Struct, frozen=True, kw_only=True):
    """What the prompts of an input share, in tokens. ``total``: of all prompts.

    ``shared``: those that need not be computed if rows that share a beginning run next to each other. ``near``: pairs
    of a distance and a number: so many of the shared ones were last seen at most that many tokens before, in the input.
    """

    total: int = 0
    shared: int = 0
    near: tuple[tuple[int, int], ...] = ()

    def within(self, room: int) -> int:
        """The shared tokens that a cache of ``room`` tokens still has when rows run in the input's order."""
        return sum(tokens for distance, tokens in self.near if distance <= room)

    def gain(self, room: int) -> int:
        """The shared tokens that such a cache has only if rows that share a beginning run next to each other."""
        return self.shared - self.within(room)

    def is_scattered(self, room: int) -> bool:
        """Whether that is enough to put rows in another order than the input's."""
        return self.gain(room) >= _WORTHWHILE * self.total

    def times(self, share: float) -> Sharing:
        """Those of an input of which this is the first part; distances stay."""
        near = tuple((distance, int(tokens * share)) for distance, tokens in self.near)
        return Sharing(total=int(self.total * share), shared=int(self.shared * share), near=near)


class Placed(NamedTuple):
    """A row in the order to run. ``tokens``: those to compute, ``output``: those to generate at most.

    ``length``: falls from section to section of the order, by how long the longest output of a family can be.
    """

    row: int
    tokens: int
    output: int
    family: int
    length: int


class _Part:
    """What is known so far of an open node, or of a row alone."""

    def __init__(self, level: int, start: int, first: int, low: int, high: int) -> None:
        self.level, self.start, self.first, self.low, self.high = level, start, first, low, high

    def take(self, part: _Part) -> None:
        """Add a part of it."""
        self.first, self.low, self.high = (
            min(self.first, part.first),
            min(self.low, part.low),
            max(self.high, part.high),
        )


class _Tree:
    """The open nodes while the list is read."""

    def __init__(self) -> None:
        self._open: list[_Part] = []
        self._last: Beginning | None = None
        self.size = 0

    def add(self, one: Beginning) -> list[Node]:
        """Add the next row of the list. Returns the nodes that have ended before it, inner ones first."""
        closed = self._close(one.level) if self._last else []
        self._last, self.size = one, self.size + 1
        return closed

    def finish(self) -> list[Node]:
        """The nodes that end with the list."""
        return self._close(0)

    def _close(self, level: int) -> list[Node]:
        closed: list[Node] = []
        if self._last is None:
            return closed
        part = _Part(0, self.size - 1, self._last.row, self._last.before, self._last.before)
        while self._open and self._open[-1].level > level:
            top = self._open.pop()
            top.take(part)
            parent = max(level, self._open[-1].level if self._open else 0)
            closed.append(Node(top.level, parent, top.start, self.size, top.first, top.low, top.high))
            part = top
        if self._open and self._open[-1].level == level:
            self._open[-1].take(part)
        elif level:
            self._open.append(_Part(level, part.start, part.first, part.low, part.high))
        return closed


def level_tokens(level: int) -> int:
    """The tokens that prompts share which share so many checksums: half way to the next one, as they do on average."""
    return (level_bytes(level) + level_bytes(level + 1)) // (2 * BYTES_PER_TOKEN) if level else 0


def measure(beginnings: Iterable[Beginning]) -> tuple[Sharing, list[Node]]:
    """What the prompts share, and the nodes of more than FAMILY_ROWS rows. In bounded memory."""
    tree, window = _Tree(), deque[int](maxlen=_WINDOW)
    buckets: Counter[int] = Counter()
    large: list[Node] = []
    total = 0
    for one in beginnings:
        _count(tree.add(one), window, buckets, large)
        window.append(one.before)
        total += one.tokens
    _count(tree.finish(), window, buckets, large)
    near = tuple((int(2 ** ((bucket + 1) / _BUCKETS_A_DOUBLING)), tokens) for bucket, tokens in sorted(buckets.items()))
    return Sharing(total=total, shared=min(total, buckets.total()), near=near), large


def _count(nodes: list[Node], window: deque[int], buckets: Counter[int], large: list[Node]) -> None:
    """Add what the members of each node share to the bucket of the distance between two of them in the input."""
    for node in nodes:
        size = node.end - node.start
        if size > FAMILY_ROWS:
            large.append(node)
        if size > _WINDOW:
            buckets[_bucket((node.high - node.low) // (size - 1))] += (size - 1) * node.tokens
            continue
        members = sorted(islice(reversed(window), size))
        for before, after in pairwise(members):
            buckets[_bucket(after - before)] += node.tokens


def _bucket(distance: int) -> int:
    return int(_BUCKETS_A_DOUBLING * log2(distance + 1))


def in_order(beginnings: Iterable[Beginning], large: Iterable[Node]) -> Iterator[tuple[bytes, Placed]]:
    """Each row of the list with the key by which it is placed: by its family's first row, long outputs first.

    A family is a largest node of at most FAMILY_ROWS rows; those of one larger node (``large``) stay together. In
    bounded memory.
    """
    yield from _Families(large).place(beginnings)


def alone(one: Beginning) -> tuple[bytes, Placed]:
    """A row that shares nothing, as in_order gives those that do."""
    length = _length(one.output)
    return _path(length, one.row), Placed(one.row, max(1, one.tokens), one.output, one.row, length)


def _length(output: int) -> int:
    """Outputs that may be four times as long come earlier, so that the last rows of a job are short ones."""
    return output.bit_length() // 2


def _path(length: int, *first: int) -> bytes:
    return pack(f">B{len(first)}Q", 255 - length, *first)


class _Families:
    """Cuts the sorted list into families."""

    def __init__(self, large: Iterable[Node]) -> None:
        self._large = deque(sorted(large, key=lambda node: (node.start, -node.end)))
        self._around: list[Node] = []  # the larger nodes in which the next row is
        self._window = deque[Beginning]()
        self._position = 0  # of the first row of the window
        self._found = deque[Node]()  # the largest nodes of the window that have ended, none inside another

    def place(self, beginnings: Iterable[Beginning]) -> Iterator[tuple[bytes, Placed]]:
        tree = _Tree()
        for one in beginnings:
            self._keep(tree.add(one))
            self._window.append(one)
            yield from self._settled(tree.size - FAMILY_ROWS)
        self._keep(tree.finish())
        yield from self._settled(tree.size)

    def _keep(self, nodes: list[Node]) -> None:
        for node in nodes:
            if node.end - node.start <= FAMILY_ROWS:
                while self._found and self._found[-1].start >= node.start:
                    self._found.pop()
                self._found.append(node)

    def _settled(self, until: int) -> Iterator[tuple[bytes, Placed]]:
        """The families that begin before ``until``, which no later node of at most FAMILY_ROWS rows can hold."""
        while self._position < until:
            is_family = bool(self._found) and self._found[0].start == self._position
            size = self._found[0].end - self._position if is_family else 1
            if is_family:
                self._found.popleft()
            yield from self._placed([self._window.popleft() for _ in range(size)])
            self._position += size

    def _placed(self, family: list[Beginning]) -> Iterator[tuple[bytes, Placed]]:
        while self._around and self._around[-1].end <= self._position:
            self._around.pop()
        while self._large and self._large[0].start <= self._position:
            self._around.append(self._large.popleft())
        first = min(one.row for one in family)
        length = _length(max(one.output for one in family))
        path = _path(length, *(node.first for node in self._around), first)
        shared = self._around[-1].level if self._around else 0
        for at, one in enumerate(family):
            level = one.level if at else shared
            yield path, Placed(one.row, max(1, one.tokens - level_tokens(level)), one.output, first, length)
