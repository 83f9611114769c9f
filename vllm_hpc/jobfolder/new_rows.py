"""Reads the rows of a job while its replicas write them, each row once.

What counts as a row is what shards.py takes for one. Only what shards have grown by is read, and a byte is kept for
each row of the input, so that a shard may be larger than the memory.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.batch_lines import output_line
from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_lines import LineReader
from vllm_hpc.jobfolder.shards import Line, Scan
from vllm_hpc.jobfolder.whole_lines import MALFORMED, check_utf8, whole_lines
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import CollectError
from vllm_hpc.spec.read_file import open_regular

_LINE, _ROW = msgspec.json.Decoder(Line), msgspec.json.Decoder()
# Rows whose places are looked up at a time.
_AT_A_TIME = 512
_LONGEST_LINE = 256 << 20


class NewRows:
    """The rows that were not given before. Raises InputError if the ids of the input cannot be read."""

    def __init__(self, folder: JobFolder) -> None:
        record = folder.job()
        self._folder, self._is_rehearsal = folder, record.request.rehearse
        self._ids = RowIds(folder)
        self._given = bytearray(record.rows)
        self._read: dict[str, int] = {}  # bytes of each shard

    def results(self) -> Iterator[Row]:
        """The rows that have got a result, in the order of each shard. Raises CollectError.

        A row with an error is not one of them: another attempt may have a result for it.
        """
        try:
            for shard in self._shards():
                with suppress(FileNotFoundError):  # its owner has cleaned up
                    yield from self._beyond(shard)
        except OSError as error:
            raise _cannot_read(error) from None

    def rest(self) -> Iterator[Row]:
        """After the end of the job: the results that were overlooked, then the rows with errors. Raises CollectError.

        A network file system may have shown a line as zeros that has come since.
        """
        if all(self._given):
            return
        try:
            if self._is_cleaned():
                yield from self._of_outputs()
            else:
                yield from self._of_shards()
        except (OSError, CollectError) as error:
            if not self._is_cleaned():  # it was not while the shards were read
                raise _cannot_read(error) if isinstance(error, OSError) else error from None
            yield from self._of_outputs()

    def _of_shards(self) -> Iterator[Row]:
        shards = self._shards()
        found = Scan(shards, len(self._given), self._is_rehearsal, ids=self._ids)
        with LineReader(shards) as lines:
            for has_error in (False, True):
                yield from self._at(found, lines, has_error)

    def _is_cleaned(self) -> bool:
        return read_cleaned(self._folder, len(self._given)) is not None

    def _of_outputs(self) -> Iterator[Row]:
        """What clean has left: a line for each row. Raises CollectError."""
        try:
            with open_regular(self._folder.outputs, follow_links=False) as file:
                for index, is_given in enumerate(self._given):
                    line = file.readline(_LONGEST_LINE)
                    if not is_given:
                        self._given[index] = 1
                        yield _ROW.decode(line)
        except MALFORMED:
            raise CollectError(f"{self._folder.outputs} was changed after its job was cleaned: restore it") from None
        except OSError as error:
            raise _cannot_read(error) from None

    def _shards(self) -> list[Path]:
        try:
            return self._folder.shard_files()
        except FileNotFoundError:
            return []

    def _beyond(self, shard: Path) -> Iterator[Row]:
        """The results in what a shard has grown by."""
        begin, size = self._read.get(shard.name, 0), shard.lstat().st_size
        if size == begin:
            return
        begin = begin if size > begin else 0  # smaller: another file, of which no row is given twice
        for lines in whole_lines(shard, begin):
            for line in lines:
                begin += len(line)
                self._read[shard.name] = begin  # before the row is given: whoever takes it may stop there
                row = self._result_of(line)
                if row is not None:
                    yield row

    def _result_of(self, line: bytes) -> Row | None:
        try:
            check_utf8(line)
            found = _LINE.decode(line)
        except MALFORMED:
            return None
        index = found.index
        if index >= len(self._given) or self._given[index] or found.error is not None:
            return None
        if (found.rehearsal is True) is not self._is_rehearsal:
            return None
        if self._ids.is_known and not self._ids.is_of(index, found.id):
            return None
        self._given[index] = 1
        return _row(line)

    def _at(self, found: Scan, lines: LineReader, has_error: bool) -> Iterator[Row]:
        """The rows that were not given, of those with a result or of those with an error."""
        wanted = [
            index
            for index, place in enumerate(found.places)
            if place and not self._given[index] and bool(found.has_error[index]) is has_error
        ]
        for first in range(0, len(wanted), _AT_A_TIME):
            those = wanted[first : first + _AT_A_TIME]
            data = lines.read([found.places[index] for index in those])
            each = (line for joined in data for line in io.BytesIO(joined))
            for index, line in zip(those, each, strict=True):
                self._given[index] = 1
                yield _row(line)


def _row(line: bytes) -> Row:
    """The row as collect writes it."""
    row: Row = _ROW.decode(output_line(line))
    return row


def _cannot_read(error: OSError) -> CollectError:
    return CollectError(f"cannot read {error.filename or 'a shard'}: {error.strerror}")
