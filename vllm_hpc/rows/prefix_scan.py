"""Collects how the prompts of an input begin while it is read, and sorts its rows so that equal beginnings meet.

Of most inputs no two rows begin alike, so a row is looked at closely only if an earlier one had its first checksum. The
beginning of that one is in memory for a while; later, it is taken to share as much as its next neighbour does. SQLite
sorts, in a temporary file of its own where memory does not hold the keys (prefix.py), and once: what counts then is how
many checksums a row shares with its neighbour. Up to 26 bytes of each row stay in memory.
"""

from __future__ import annotations

import errno
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from functools import cached_property
from itertools import accumulate, chain, compress, groupby
from mmap import mmap
from operator import itemgetter
from typing import TYPE_CHECKING

import msgspec

from vllm_hpc.rows.families import Beginning, Node, Placed, Sharing, alone, in_order, measure
from vllm_hpc.rows.prefix import prefix_head, prefix_key, prefix_text, shared_levels
from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    import sqlite3

# Rows that are handed over at once, and KiB that SQLite keeps in memory.
_AT_ONCE, _CACHE_KIB = 2000, 65_536
# Checksums that are told apart; with more rows than that, some are looked at closely in vain.
_HEADS = 1 << 24
_ONCE, _TWICE = 1, 2
# Bytes in memory of rows that were the first with their checksum: of each prompt's beginning, besides, and in all.
_KEPT, _BESIDES, _MOST_KEPT = 1024, 300, 16 << 20
# Of tokens, in four bytes: a row of more fits no engine.
_MOST = (1 << 32) - 1


class _FirstRows:
    """The beginnings of the last rows that were the first with their head, until another one has it."""

    def __init__(self) -> None:
        self._texts: OrderedDict[int, tuple[int, bytes]] = OrderedDict()
        self._size = 0

    def put(self, head: int, number: int, text: bytes) -> None:
        """Keep the beginning of a row."""
        self._texts[head] = number, text
        self._size += len(text) + _BESIDES
        while self._size > _MOST_KEPT:
            self._forget(self._texts.popitem(last=False)[1][1])

    def take(self, head: int, key: bytes) -> tuple[int, bytes] | None:
        """The first row with that head, which a row with ``key`` has, too; and its key, as far as it is known."""
        if (found := self._texts.pop(head, None)) is None:
            return None
        number, text = found
        self._forget(text)
        own = prefix_key(text)
        return number, key if len(text) == _KEPT and key.startswith(own) else own

    def _forget(self, text: bytes) -> None:
        self._size -= len(text) + _BESIDES


class PrefixScan:
    """The beginnings of an input's rows, in the order in which they are added."""

    def __init__(self) -> None:
        self._heads, self._tokens, self._outputs = array("I"), array("I"), array("I")
        self._seen = mmap(-1, _HEADS)  # memory is taken as rows come
        self._first, self._is_keyless = _FirstRows(), bytearray()
        self._keys: list[tuple[int, bytes, int]] = []
        self._is_full = self._has_keys = False

    @property
    def rows(self) -> int:
        """Those that were added."""
        return len(self._heads)

    def add(self, row: Row, tokens: int, output: int) -> None:
        """Add the next row of the input: its prompt's tokens, and the most that it generates."""
        head = prefix_head(row)
        is_first = bool(head) and not self._seen[head % _HEADS]
        if is_first:
            self._seen[head % _HEADS] = _ONCE
            self._first.put(head, self.rows, prefix_text(row, _KEPT))
        elif head:
            self._seen[head % _HEADS] = _TWICE
            self._look_closely(head, row)
        self._is_keyless.append(is_first)
        self._heads.append(head)
        self._tokens.append(min(tokens, _MOST))
        self._outputs.append(min(output, _MOST))

    @property
    def sharing(self) -> Sharing | None:
        """What the prompts share; None if the disk of temporary files is full. Call it when all rows were added."""
        found = self._measured
        return None if found is None else msgspec.structs.replace(found[0], total=sum(self._tokens))

    def close(self) -> None:
        """Give back what was kept to sort by; nothing can be asked afterwards."""
        self._database.close()
        self._seen.close()
        self._first = _FirstRows()

    def ordered(self) -> Iterator[Placed]:
        """The rows in the order in which they should run: each family's next to each other. Raises OSError."""
        import sqlite3

        try:
            yield from self._ordered()
        except sqlite3.Error:
            raise OSError(errno.ENOSPC, "no room to sort the rows", "the folder of temporary files (TMPDIR)") from None

    def _ordered(self) -> Iterator[Placed]:
        large = self._measured[1] if self._measured else []
        found = chain(in_order(self._sorted(), large), map(alone, self._alone()))
        rows = ((path, *placed) for path, placed in found)
        with closing(_open("placed (path BLOB, row, tokens, output, family, length)")) as database:
            database.executemany("INSERT INTO placed VALUES (?, ?, ?, ?, ?, ?)", rows)
            # Rows of equal paths stay as they were put in, which is sorted by their beginnings.
            placed = database.execute("SELECT row, tokens, output, family, length FROM placed ORDER BY path, rowid")
            yield from map(Placed._make, placed)

    @cached_property
    def _measured(self) -> tuple[Sharing, list[Node]] | None:
        import sqlite3

        self._hand_over()
        try:
            self._add_first_ones()
            return None if self._is_full else measure(self._sorted())
        except sqlite3.Error:
            return None

    @cached_property
    def _befores(self) -> array[int]:
        return array("Q", accumulate(self._tokens, initial=0))

    def _add_first_ones(self) -> None:
        """The rows that have no key, for they were the first with that head; NULL sorts before all keys."""
        if self._has_keys:
            firsts = compress(enumerate(self._heads), self._is_keyless)
            rows = ((head, row) for row, head in firsts if self._is_shared(head))
            self._database.executemany("INSERT INTO keys VALUES (?, NULL, ?)", rows)

    def _is_shared(self, head: int) -> bool:
        return bool(head) and self._seen[head % _HEADS] == _TWICE

    def _sorted(self) -> Iterator[Beginning]:
        """The rows that begin as another does."""
        for row, level in zip(*self._neighbours, strict=True):
            yield self._beginning(level, row)

    @cached_property
    def _neighbours(self) -> tuple[array[int], array[int]]:
        """The rows that begin as another does, sorted, and how many checksums each shares with the one before it."""
        rows, levels, last = array("I"), array("B"), b""
        for row, key in self._keyed():
            rows.append(row)
            levels.append(shared_levels(last, key))
            last = key
        self._database.close()
        return rows, levels

    def _keyed(self) -> Iterator[tuple[int, bytes]]:
        found = (
            self._database.execute("SELECT head, key, row FROM keys ORDER BY head, key, row") if self._has_keys else ()
        )
        for _, rows in groupby(found, itemgetter(0)):
            keyless: list[int] = []
            for _, key, row in rows:
                if key is None:
                    keyless.append(row)
                    continue
                yield from ((one, key) for one in (*keyless, row))
                keyless.clear()
            yield from ((one, b"") for one in keyless)  # of a head that only shares its place with another

    def _beginning(self, level: int, row: int) -> Beginning:
        return Beginning(level, row, self._befores[row], self._tokens[row], self._outputs[row])

    def _alone(self) -> Iterator[Beginning]:
        return (self._beginning(0, row) for row, head in enumerate(self._heads) if not self._is_shared(head))

    def _look_closely(self, head: int, row: Row) -> None:
        self._has_keys = True
        key = prefix_key(prefix_text(row))
        self._keys.append((head, key, self.rows))
        if first := self._first.take(head, key):
            self._keys.append((head, first[1], first[0]))
            self._is_keyless[first[0]] = False
        if len(self._keys) >= _AT_ONCE:
            self._hand_over()

    def _hand_over(self) -> None:
        import sqlite3

        if not self._is_full:
            try:
                self._database.executemany("INSERT INTO keys VALUES (?, ?, ?)", self._keys)
            except sqlite3.Error:  # an input is not refused because nothing can be sorted
                self._is_full = True
        self._keys.clear()

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return _open("keys (head, key BLOB, row)")


def _open(table: str) -> sqlite3.Connection:
    """A database that nobody else sees, with a table; it goes when it is closed, or with its object."""
    import sqlite3

    # The empty name is a temporary file, written only where the cache is full (SQLite, "In-Memory Databases"). Who
    # prepares a job may submit it in another thread.
    found = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
        found.execute(f"PRAGMA {setting}")
    found.execute("BEGIN")  # and never ended: a transaction for each row would write each to the file
    found.execute(f"CREATE TABLE {table}")
    return found
