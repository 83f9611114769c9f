"""Joins the output rows of two files by id, in bounded memory: a million rows do not fit in a login node's share.

Most files have the same rows in the same order, and are read side by side. From the first row that is not so, the rest
of the second file is indexed in a temporary database of SQLite, which spills to the disk by itself.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.rows.row import CHAT_FIELDS, INPUT_FIELDS, Row
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import open_regular

# Bytes of one row: more is no row.
_LONGEST_LINE = 256 * 2**20
_ASKED = (INPUT_FIELDS | CHAT_FIELDS) - {"index", "id", "error"}


class Entry(NamedTuple):
    """An output row. ``key``: its id as JSON; ``asked``: a digest of its input row, None if that is not known."""

    key: str
    row: Row
    asked: bytes | None
    offset: int


class Outputs:
    """The output rows in a file. ``job``: whose input they are of, read for ``asked``; None: it is not looked at."""

    def __init__(self, path: Path, job: JobFolder | None = None) -> None:
        self.path, self._decoder = path, msgspec.json.Decoder()
        self._input = InputReader(job) if job else None

    def entries(self) -> Iterator[Entry]:
        """All rows in order. Raises RequestError for a line that is none, InputError if the input has changed."""
        offset = 0
        with open_regular(self.path) as file:
            number = 0
            while line := file.readline(_LONGEST_LINE):
                row = self._decode(line, number + 1)
                yield Entry(_key(row, number), row, self._asked(number), offset)
                offset, number = offset + len(line), number + 1

    def row_at(self, file: BinaryIO, offset: int) -> Row:
        """The row that begins there in the open file."""
        file.seek(offset)
        return self._decode(file.readline(_LONGEST_LINE), 0)

    def _decode(self, line: bytes, number: int) -> Row:
        row = None
        if len(line) < _LONGEST_LINE:
            try:
                row = self._decoder.decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                row = None
        if not isinstance(row, dict):
            raise RequestError(
                f"{str(self.path)!r}: line {number} must be an output row, a JSON object: name a job, or its "
                "outputs.jsonl"
            )
        return row

    def _asked(self, number: int) -> bytes | None:
        if self._input is None:
            return None
        (row, *_) = self._input.rows(number, 1) or [{}]
        asked = {name: row[name] for name in sorted(_ASKED & row.keys())}
        return hashlib.blake2b(msgspec.json.encode(asked), digest_size=8).digest()


class Pair(NamedTuple):
    """The rows of one id; None where a file has none. ``is_same_input``: None if that is not known."""

    key: str
    first: Row | None
    second: Row | None
    is_same_input: bool | None = None


def join_outputs(first: Outputs, second: Outputs) -> Iterator[Pair]:
    """The rows of both, by id. Raises RequestError, InputError, OSError."""
    ones, others = first.entries(), second.entries()
    while True:
        one, other = next(ones, None), next(others, None)
        if one is None and other is None:
            return
        if one is None or other is None or one.key != other.key:
            break
        yield _pair(one, other.row, other.asked)
    with closing(_Index(second)) as index:
        for entry in _chained(other, others):
            index.add(entry)
        for entry in _chained(one, ones):
            yield index.take(entry)
        yield from index.rest()


def _chained(entry: Entry | None, rest: Iterator[Entry]) -> Iterator[Entry]:
    if entry is not None:
        yield entry
    yield from rest


def _pair(one: Entry, row: Row, asked: bytes | None) -> Pair:
    is_known = one.asked is not None and asked is not None
    return Pair(one.key, one.row, row, one.asked == asked if is_known else None)


class _Index:
    """Where the rows of a file begin, by id."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs
        self._file = open_regular(outputs.path)  # once: to open a file on a cluster asks its server
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file, which nobody else sees
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE rows (key TEXT PRIMARY KEY, start INTEGER, asked BLOB) WITHOUT ROWID")
        self._database.execute("BEGIN")

    def add(self, entry: Entry) -> None:
        """Add a row. Raises RequestError if there is another with its id."""
        try:
            self._database.execute("INSERT INTO rows VALUES (?, ?, ?)", (entry.key, entry.offset, entry.asked))
        except sqlite3.IntegrityError:
            raise RequestError(
                f"{str(self._outputs.path)!r} has two rows with the id {entry.key}: rows are joined by their ids"
            ) from None

    def take(self, entry: Entry) -> Pair:
        """The row with the same id, which is taken out."""
        found = self._database.execute("SELECT start, asked FROM rows WHERE key = ?", (entry.key,)).fetchone()
        if found is None:
            return Pair(entry.key, entry.row, None)
        self._database.execute("DELETE FROM rows WHERE key = ?", (entry.key,))
        return _pair(entry, self._outputs.row_at(self._file, found[0]), found[1])

    def rest(self) -> Iterator[Pair]:
        """The rows that nobody has taken, in the file's order."""
        for key, start in self._database.execute("SELECT key, start FROM rows ORDER BY start"):
            yield Pair(key, None, self._outputs.row_at(self._file, start))

    def close(self) -> None:
        """Remove the database, and close the file."""
        self._database.close()
        self._file.close()


def _key(row: Row, number: int) -> str:
    """What a row is joined by: its id, else its index, else its place in the file."""
    identity = row.get("custom_id", row.get("id", row.get("index", number)))
    identity = str(identity) if isinstance(identity, int) else identity  # without an id of its own, a row has "0", "1"
    return msgspec.json.encode(identity).decode()
