"""Collects how the prompts of an input begin while it is read, and sorts its rows so that equal beginnings meet.

SQLite sorts, in a temporary file of its own if memory does not hold the rows: two checksums and four numbers for each
64 to 100 bytes of a prompt's first part, and few more for the rest (prefix.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING

from vllm_hpc.rows.families import Beginning, Node, Placed, Sharing, in_order, measure
from vllm_hpc.rows.prefix import prefix_key
from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    import sqlite3

# Rows that are handed over at once, and KiB that SQLite keeps in memory.
_AT_ONCE, _CACHE_KIB = 2000, 65_536
_SORTED = "SELECT key, row, before, tokens, output FROM beginnings ORDER BY key, output DESC, row"


class PrefixScan:
    """The beginnings of an input's rows, in the order in which they are added."""

    def __init__(self) -> None:
        self.rows = 0
        self._tokens = 0
        self._kept: list[tuple[bytes, int, int, int, int]] = []

    def add(self, row: Row, tokens: int, output: int) -> None:
        """Add the next row of the input: its prompt's tokens, and the most that it generates."""
        self._kept.append((prefix_key(row), self.rows, self._tokens, tokens, output))
        self.rows, self._tokens = self.rows + 1, self._tokens + tokens
        if len(self._kept) >= _AT_ONCE:
            self._hand_over()

    @property
    def sharing(self) -> Sharing:
        """What the prompts share. Call it when all rows were added."""
        return self._measured[0]

    def ordered(self) -> Iterator[Placed]:
        """The rows in the order in which they should run: each family's next to each other."""
        self._database.execute("DROP TABLE IF EXISTS placed")
        self._database.execute("CREATE TABLE placed (path BLOB, row, tokens, output, family, length)")
        rows = ((path, *placed) for path, placed in in_order(self._sorted(), self._measured[1]))
        self._database.executemany("INSERT INTO placed VALUES (?, ?, ?, ?, ?, ?)", rows)
        # Rows of equal paths stay as they were put in, which is sorted by their beginnings.
        found = self._database.execute("SELECT row, tokens, output, family, length FROM placed ORDER BY path, rowid")
        yield from map(Placed._make, found)

    @cached_property
    def _measured(self) -> tuple[Sharing, list[Node]]:
        return measure(self._sorted())

    def _sorted(self) -> Iterator[Beginning]:
        self._hand_over()
        yield from map(Beginning._make, self._database.execute(_SORTED))

    def _hand_over(self) -> None:
        self._database.executemany("INSERT INTO beginnings VALUES (?, ?, ?, ?, ?)", self._kept)
        self._kept.clear()

    @cached_property
    def _database(self) -> sqlite3.Connection:
        """A database that nobody else sees; it goes with this object."""
        import sqlite3

        # The empty name is a temporary file, written only where the cache is full (SQLite, "In-Memory Databases").
        found = sqlite3.connect("", isolation_level=None)
        for setting in ("journal_mode = OFF", "synchronous = OFF", f"cache_size = -{_CACHE_KIB}"):
            found.execute(f"PRAGMA {setting}")
        found.execute("BEGIN")  # and never ended: a transaction for each row would write each to the file
        found.execute("CREATE TABLE beginnings (key BLOB, row, before, tokens, output)")
        return found
