"""Rows from memory, as an input: kept in an unnamed temporary file, which is gone with the last who reads it.

A request names them by a text such as ``<12 rows from memory: list>``, by which ``find`` gets them while they are kept;
job.json keeps that text, and the job's folder the rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import IO
from weakref import WeakValueDictionary, finalize

import msgspec

from vllm_hpc.rows.from_memory import Given, lines
from vllm_hpc.rows.input_file import SpooledInput
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted


class KeptRows(SpooledInput):
    """Rows from memory; ``text`` is what a request has as its input. ``place`` is as a caller in Python writes it."""

    def __init__(self, given: Given, size: int, spool: IO[bytes]) -> None:
        super().__init__("input", spool)
        self._place = given.place
        words = f"{counted(size, 'row')} from memory: {given.kind}"
        texts = (f"<{words}>" if number == 1 else f"<{words}, {number}>" for number in count(1))
        self.text = next(text for text in texts if text not in _kept)
        _kept[self.text] = self
        finalize(self, spool.close)

    def head(self) -> bytes:
        """Nothing: it is known what it is, and a prompt may look like an archive."""
        return b""

    def place(self, number: int) -> str:
        """The row of line ``number``, by its index."""
        return self._place.format(number - 1)


_kept: WeakValueDictionary[str, KeptRows] = WeakValueDictionary()


def find_kept(text: str) -> KeptRows | None:
    """The rows that a request's input names; None if it is the name of a file."""
    return _kept.get(text)


def keep_rows(given: Given, kept: Collection[str] | None, wanted: Collection[str]) -> KeptRows:
    """Read all rows, one at a time. Raises InputError, and whatever the caller's iterator raises."""
    size = 0

    def counting() -> Iterator[bytes]:
        nonlocal size
        for line in lines(given, kept, wanted):
            yield line
            size += 1

    try:
        spool = _written(counting())
    except BaseException as error:
        if not isinstance(error, InputError):
            error.add_note(f"vllm-hpc: raised by input after {counted(size, 'row')}; nothing was submitted")
        raise
    if not size:
        spool.close()
        raise InputError(f"input is empty ({given.kind}): give at least one row")
    return KeptRows(given, size, spool)


def keep_normalised(rows: Iterable[Row], kind: str) -> KeptRows:
    """Keep rows that are normalised already, with the indices that they have; ``kind`` is what they are, in words.

    Raises InputError, and whatever the iterator raises.
    """
    size, encode = 0, msgspec.json.Encoder().encode

    def counting() -> Iterator[bytes]:
        nonlocal size
        for row in rows:
            yield encode(row) + b"\n"
            size += 1

    spool = _written(counting())
    kept = KeptRows(Given(iter(()), kind), size, spool)
    kept.kind = "rows"
    return kept


def _written(all_lines: Iterator[bytes]) -> IO[bytes]:
    """The lines in an unnamed temporary file. Raises InputError, and whatever the iterator raises."""
    spool = tempfile.TemporaryFile(prefix="vllm-hpc-rows-")  # noqa: SIM115 - open until nobody reads it
    try:
        for line in all_lines:
            with _writing():
                spool.write(line)
        with _writing():
            spool.flush()
    except BaseException:
        spool.close()
        raise
    return spool


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep the rows of input in {tempfile.gettempdir()!r}: {error.strerror}: set TMPDIR to a folder "
            "with room for them"
        ) from None
