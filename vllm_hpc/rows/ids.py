"""Checks that ids are unique while rows are read, in bounded memory however many there are.

A few ids are kept in a set. For many, only 64-bit hashes are kept, on disk and partitioned by value so that each
partition fits in memory; ids with equal hashes are read again from the file and compared. The id of a row without one
is its index: as long as all rows are like that, nothing is stored.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable
from typing import IO, TypeVar

from vllm_hpc.spec.errors import InputError

Id = str | int
Place = TypeVar("Place")
# About 40 MB of Python objects. With 100 million ids, a partition is about as large: 400,000 hashes, 30 MB.
IN_MEMORY = 250_000
_PARTS = 256
_BUFFERED = 1_000_000
# With more suspects than this, some are dropped: the error then names a duplicate, but perhaps not the first.
_SUSPECTS = 500_000


class UniqueIds:
    """Takes ids in row order, and finds the first that was given before."""

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._most = in_memory
        self._leading = 0
        self._seen: set[Id] = set()
        self._spilled: _Hashes | None = None

    def add(self, index: int, identity: Id) -> bool:
        """Add a row's id. Returns False if it is already known that it was given before."""
        if index == self._leading and identity == str(index):
            self._leading += 1
            return True
        if self._is_leading(identity):
            return False
        if self._spilled:
            self._spilled.add(_hash(identity))
            return True
        if identity in self._seen:
            return False
        self._seen.add(identity)
        if len(self._seen) > self._most:
            self._spill()
        return True

    def first_repeated(self, again: Callable[[], Iterable[tuple[Place, Id]]]) -> tuple[Place, Id] | None:
        """After the last row: the first repeated id, with its place. ``again`` reads places and ids again."""
        suspects = self._spilled.repeated() if self._spilled else None
        if not suspects:
            return None
        seen: set[Id] = set()
        for place, identity in again():
            if _hash(identity) in suspects:
                if identity in seen:
                    return place, identity
                seen.add(identity)
        return None

    def _is_leading(self, identity: Id) -> bool:
        """Whether it is the default id of one of the first rows, which are not stored."""
        if not isinstance(identity, str) or not identity.isdecimal() or len(identity) > 19:
            return False
        number = int(identity)
        return number < self._leading and identity == str(number)

    def _spill(self) -> None:
        self._spilled = _Hashes()
        for identity in self._seen:
            self._spilled.add(_hash(identity))
        self._seen = set()


def _hash(identity: Id) -> int:
    """Hash a tuple: a whole number is its own hash, so ids in steps of 256 would all go to one partition."""
    return hash((identity,))


class _Hashes:
    """Hashes in an unnamed temporary file, partitioned by their remainder."""

    def __init__(self) -> None:
        self._file: IO[bytes] = _temporary_file()
        self._parts = [array("q") for _ in range(_PARTS)]
        self._extents: list[list[tuple[int, int]]] = [[] for _ in range(_PARTS)]
        self._buffered = 0

    def add(self, value: int) -> None:
        self._parts[value % _PARTS].append(value)
        self._buffered += 1
        if self._buffered == _BUFFERED:
            self._flush()

    def repeated(self) -> set[int]:
        """The hashes that were added more than once."""
        self._flush()
        found: set[int] = set()
        for extents in self._extents:
            values = self._read(extents)
            if len(set(values)) < len(values) and len(found) < _SUSPECTS:
                found.update(value for value, times in Counter(values).items() if times > 1)
        self._file.close()
        return found

    def _flush(self) -> None:
        try:
            for number, part in enumerate(self._parts):
                self._extents[number].append((self._file.tell(), len(part)))
                part.tofile(self._file)
                self._parts[number] = array("q")
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from None
        self._buffered = 0

    def _read(self, extents: list[tuple[int, int]]) -> array[int]:
        values = array("q")
        for offset, count in extents:
            self._file.seek(offset)
            values.fromfile(self._file, count)
        return values


def _temporary_file() -> IO[bytes]:
    try:
        return tempfile.TemporaryFile(prefix="vllm-hpc-ids-")
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> InputError:
    where = f"cannot check the ids in {tempfile.gettempdir()!r}: {error.strerror}"
    return InputError(f"{where}: set TMPDIR to a folder with room for 8 bytes per row")
