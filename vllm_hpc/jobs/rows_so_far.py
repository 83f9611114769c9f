"""The rows that a job has finished so far, to look at: from its shards, or from outputs.jsonl once they are cleaned."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.batch_lines import output_line
from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_lines import LineReader
from vllm_hpc.jobfolder.shards import Scan
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import FailedError, InputError, JobNotFoundError, RequestError
from vllm_hpc.spec.read_file import open_regular

_AT_A_TIME = 2048
_LONGEST_LINE = 256 << 20


class RowsSoFar:
    """Which rows are finished, and their output rows by index.

    ``total``: rows of the input. ``failed``: those with an error. Raises RequestError for a job that runs no rows,
    FailedError if they cannot be read, InputError.
    """

    def __init__(self, folder: JobFolder) -> None:
        record = folder.job()
        if not record.has_rows:
            raise RequestError(f"{folder.path.name} runs no rows: see 'vllm-hpc logs', and its artefacts")
        self.folder, self.total = folder, record.rows
        is_cleaned = read_cleaned(folder, record.rows) is not None
        self._shards: list[Path] = []
        try:
            if is_cleaned:
                self._places, self._has_error = _lines_of(folder, record.rows), bytearray(record.rows)
            else:
                self._shards = folder.shard_files()
                found = Scan(self._shards, record.rows, record.request.rehearse, ids=RowIds(folder))
                self._places, self._has_error = found.places, found.has_error
        except OSError as error:
            raise FailedError(f"cannot read {error.filename or 'a shard'}: {error.strerror}") from None

    @property
    def failed(self) -> Iterator[int]:
        """The indices of rows with an error, in order."""
        return (index for index, bad in enumerate(self._has_error) if bad)

    @property
    def finished(self) -> int:
        """How many rows have a result or an error."""
        return self.total - self._places.count(0)

    def has(self, index: int) -> bool:
        """Whether the row is finished."""
        return self._places[index] > 0

    def first(self, count: int) -> list[int]:
        """The first finished rows, in the input's order."""
        return list(islice((index for index, place in enumerate(self._places) if place), count))

    def last(self, count: int) -> list[int]:
        """The last finished rows, in the input's order."""
        back = (index for index in range(self.total - 1, -1, -1) if self._places[index])
        return list(islice(back, count))[::-1]

    def outputs(self, indices: Sequence[int]) -> Iterator[Row]:
        """The output rows of finished rows, in this order. Raises FailedError for a line that was changed."""
        decoder = msgspec.json.Decoder()
        for line in self._lines(indices):
            try:
                yield decoder.decode(output_line(line) if self._shards else line)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                raise FailedError(
                    f"a row of {self.folder.path.name} was changed while it was read: try again"
                ) from None

    def _lines(self, indices: Sequence[int]) -> Iterator[bytes]:
        try:
            if self._shards:
                with LineReader(self._shards) as reader:
                    for index in indices:
                        yield b"".join(reader.read([self._places[index]]))
                return
            with open_regular(self.folder.outputs, follow_links=False) as file:
                for index in indices:
                    file.seek(self._places[index] - 1)
                    yield file.readline(_LONGEST_LINE)
        except OSError as error:
            raise FailedError(f"cannot read {error.filename or self.folder.shards}: {error.strerror}") from None


def _lines_of(folder: JobFolder, rows: int) -> array[int]:
    """Where each line of outputs.jsonl begins, plus one; 0 where there is none. Raises OSError."""
    places, start = array("Q", [0]) * rows, 0
    with open_regular(folder.outputs, follow_links=False) as file:
        for index in range(rows):
            if not (line := file.readline(_LONGEST_LINE)):
                break
            places[index] = start + 1
            start += len(line)
    return places


class Prompts:
    """The input rows by index; ``fault`` says why they cannot be read, if they cannot."""

    def __init__(self, folder: JobFolder) -> None:
        self.fault = ""
        try:
            self._reader: InputReader | None = InputReader(folder)
        except InputError as error:
            self._reader, self.fault = None, str(error)

    def row(self, index: int) -> Row | None:
        """One row; None if the input has changed since."""
        if self._reader is None:
            return None
        try:
            return next(iter(self._reader.rows(index, 1)), None)
        except InputError as error:
            self._reader, self.fault = None, str(error)
            return None


def find_row(folder: JobFolder, identity: str, total: int) -> int:
    """The index of the row with that id, or custom_id. Raises JobNotFoundError if there is none, InputError."""
    ids, reader = RowIds(folder), InputReader(folder)
    given = [identity, *([int(identity)] if identity.isascii() and identity.isdecimal() and len(identity) < 20 else [])]
    for first in range(0, total, _AT_A_TIME):
        places = range(first, min(first + _AT_A_TIME, total))
        if ids.is_known and not any(ids.is_of(place, one) for place in places for one in given):
            continue
        for place, row in enumerate(reader.rows(first, _AT_A_TIME), start=first):
            if row.get("id") in given:
                return place
    raise JobNotFoundError(f"{folder.path.name} has no row with the id {identity!r}: 'vllm-hpc show' lists some")
