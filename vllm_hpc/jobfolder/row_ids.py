"""Whether a shard's row is of the job: its id must be the one that the input has at its index.

A submission keeps four bytes for each row (input.ids), so that collect does not read the input again, which may be a
hundred times as large. Where the ids are the rows' numbers, nothing is kept.
"""

from __future__ import annotations

import errno
import sys
from array import array
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.write_file import replacing

# input.py is imported where it is used: it takes the readers of rows along, which a status seldom needs.
_ADVICE = "restore it, or submit a new job"
_encode = msgspec.json.Encoder().encode


def _sum_of(identity: Any) -> int:
    return crc32(_encode(identity))


class IdSums:
    """Takes the ids of an input in the order of its rows."""

    def __init__(self) -> None:
        self._numbered = 0
        self._sums: array[int] | None = None

    def add(self, identity: Any) -> None:
        """Add the id of the next row."""
        if self._sums is None:
            if identity == str(self._numbered):
                self._numbered += 1
                return
            self._sums = array("I", (_sum_of(str(number)) for number in range(self._numbered)))
        self._sums.append(_sum_of(identity))

    def store(self, path: Path) -> str:
        """Write the sums, if there are any. Returns what input.json says of the ids."""
        from vllm_hpc.jobfolder.input import IDS_ARE_NUMBERS, IDS_HAVE_SUMS

        if self._sums is None:
            return IDS_ARE_NUMBERS
        with replacing(path) as file:
            file.write(_little_endian(self._sums).tobytes())
        return IDS_HAVE_SUMS


class RowIds:
    """The ids of a job's rows; one submitted by vllm-hpc 0.1 has none (``is_known``), and any id is taken.

    Raises InputError if input.json or input.ids is damaged, or they are not of as many rows as job.json says.
    """

    def __init__(self, folder: JobFolder) -> None:
        from vllm_hpc.jobfolder.input import IDS_HAVE_SUMS, check_rows, read_index

        index = read_index(folder)
        check_rows(folder, index)
        self.is_known = bool(index.ids)
        self._sums = _read(folder.input_ids, index.rows) if index.ids == IDS_HAVE_SUMS else None

    def is_of(self, index: int, identity: Any) -> bool:
        """Whether row ``index`` has that id."""
        if self._sums is None:
            return bool(identity == str(index))
        return self._sums[index] == _sum_of(identity)


def _read(path: Path, rows: int) -> array[int]:
    sums = array("I")
    size = rows * sums.itemsize
    try:
        content = read_regular(path, size, follow_links=False)
    except OSError as error:
        why = f"it must have {size} bytes" if error.errno == errno.EFBIG else error.strerror
        raise InputError(f"cannot read {path}: {why}: {_ADVICE}") from None
    if len(content) != size:
        raise InputError(f"cannot read {path}: it must have {size} bytes: {_ADVICE}")
    sums.frombytes(content)
    return _little_endian(sums)


def _little_endian(sums: array[int]) -> array[int]:
    """As they are stored, or the other way round: a folder may be read on another machine."""
    if sys.byteorder == "big":
        sums = sums[:]
        sums.byteswap()
    return sums
