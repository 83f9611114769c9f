"""Rows from memory, as an input: kept in an unnamed temporary file, which is gone with the last who reads it.

A request names them by a text such as ``<12 rows from memory: list>``, by which ``find`` gets them while they are kept;
job.json keeps that text, and the job's folder the rows.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import count
from typing import IO
from weakref import WeakValueDictionary, finalize

from vllm_hpc.rows.from_memory import Given, lines
from vllm_hpc.rows.input_file import SpooledInput
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
    size, spool = 0, tempfile.TemporaryFile(prefix="vllm-hpc-rows-")  # noqa: SIM115 - open until nobody reads it
    try:
        for line in lines(given, kept, wanted):
            with _writing():
                spool.write(line)
            size += 1
        with _writing():
            spool.flush()
    except BaseException as error:
        spool.close()
        if not isinstance(error, InputError):
            error.add_note(f"vllm-hpc: raised by input after {counted(size, 'row')}; nothing was submitted")
        raise
    if not size:
        spool.close()
        raise InputError(f"input is empty ({given.kind}): give at least one row")
    return KeptRows(given, size, spool)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"cannot keep the rows of input in {tempfile.gettempdir()!r}: {error.strerror}: set TMPDIR to a folder "
            "with room for them"
        ) from None
