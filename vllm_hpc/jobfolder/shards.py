"""Reads shards: what the replicas wrote over all attempts, one line per finished row.

Used by resume, status and collect. A torn last line (its writer was killed, or is still writing) is not a row, nor is
a line that the file system partly lost and filled with zeros, or one that is not UTF-8, or one with another id than the
input's row has. If a row was written twice, a result wins over an error, then the lowest attempt.

Shards may contain tens of millions of short rows, and the loops here decide how long ``collect`` takes: they use local
names, read many lines at a time, and keep nine bytes per row.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_names import shard_numbers
from vllm_hpc.jobfolder.whole_lines import MALFORMED, check_utf8, whole_lines

# A place is a shard's number (from 1) in the upper bits and a line's offset in the lower: 16 TiB per shard. 0 is unset.
OFFSET_BITS = 44
_NO_LINE = msgspec.Raw()

# Called with a shard and what is wrong for a line that no rank wrote; raises.
Refuse = Callable[[Path, str], None]


class Line(msgspec.Struct, gc=False):
    """The fields read from a shard's line. ``line``: what collect writes instead, for OpenAI batch rows."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    error: Any = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    id: Any = None
    line: msgspec.Raw = _NO_LINE
    rehearsal: Any = None


_DECODER = msgspec.json.Decoder(Line)
_FOREIGN, _HOLE = Line(1 << 62), Line(1 << 62)  # for a line that no rank wrote, and one with a hole: of no input's row
# Why a line is no row, as ``Scan.ignored`` counts them and people are told.
NOT_UTF8, OTHER_ID = "not valid UTF-8", "with another id than the row of the input"


class Tally(msgspec.Struct):
    """Counts of rows with a result and with an error, and of the results' tokens."""

    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Tally) -> None:
        """Add the counts of another tally."""
        self.done += other.done
        self.failed += other.failed
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class Finished(msgspec.Struct, frozen=True):
    """Which rows need not run again (``rows[index]`` is 1), and the counts of each lane."""

    rows: bytearray
    by_lane: dict[int, Tally]


def finished(folder: JobFolder, total: int, retry_errors_of: int = 0) -> Finished:
    """Which of ``total`` rows are finished. Errors of attempts up to ``retry_errors_of`` do not count."""
    if read_cleaned(folder, total):
        return Finished(bytearray(b"\1") * total, {0: Tally(total)})
    shards, by_lane = folder.shard_files(), defaultdict[int, Tally](Tally)
    found = Scan(shards, total, folder.job().request.rehearse, retry_errors_of=retry_errors_of, ids=RowIds(folder))
    for shard, tally in zip(shards, found.tallies, strict=True):
        by_lane[folder.lane_of(shard)].add(tally)
    return Finished(bytearray(map(bool, found.places)), by_lane)


class Results(msgspec.Struct, frozen=True):
    """Which rows have a result (``rows[index]`` is 1), and how many of the others have an error."""

    rows: bytearray
    failed: int


def results(folder: JobFolder, total: int) -> Results:
    """The results among ``total`` rows."""
    if read_cleaned(folder, total):
        return Results(bytearray(b"\1") * total, 0)
    found = Scan(folder.shard_files(), total, folder.job().request.rehearse, ids=RowIds(folder))
    rows = bytearray(place > 0 and not failed for place, failed in zip(found.places, found.has_error, strict=True))
    return Results(rows, found.tally.failed)


class Scan:
    """Finds the place of each of ``total`` rows in the shards, given with the lowest attempt first.

    ``places``: by index, as ``split_place`` reads them. Lines that no rank wrote are skipped unless ``refuse`` raises;
    lines with a hole of zeros are always skipped, and their rows run again. Rows of a rehearsal count only in a
    rehearsal (``is_rehearsal``), and its job accepts no others. ``ids``: those of the rows, if the lines may be of
    others; ``ignored`` counts the lines that are passed over for that, and those that are not UTF-8. Raises OSError if
    a shard cannot be read.
    """

    def __init__(
        self,
        shards: list[Path],
        total: int,
        is_rehearsal: bool = False,
        refuse: Refuse | None = None,
        retry_errors_of: int = 0,
        ids: RowIds | None = None,
    ) -> None:
        self.ignored: Counter[str] = Counter()
        self._ids = ids if ids and ids.is_known else None
        self.places = array("Q", [0]) * total
        self.tallies = [Tally() for _ in shards]
        self.is_wrapped = False  # whether any row has a ``line``
        self.has_error = bytearray(total)
        self._is_rehearsal, self._refuse, self._retry_errors_of = is_rehearsal, refuse, retry_errors_of
        for number, shard in enumerate(shards):
            self._read(number, shard)

    @property
    def tally(self) -> Tally:
        """The counts over all shards."""
        total = Tally()
        for tally in self.tallies:
            total.add(tally)
        return total

    def _read(self, number: int, shard: Path) -> None:
        skips_errors = shard_numbers(shard)[1] <= self._retry_errors_of
        start = (number + 1) << OFFSET_BITS
        for lines in whole_lines(shard):
            rows = self._decode(lines, shard)
            done = self._take(rows, accumulate(map(len, lines), initial=start), shard, skips_errors)
            self.tallies[number].add(done)
            start += sum(map(len, lines))

    def _take(self, rows: list[Line], starts: Iterable[int], shard: Path, skips_errors: bool) -> Tally:
        """Record the rows of one read and count the accepted results. Nearly every row is a new result."""
        places, total, is_rehearsal, ids = self.places, len(self.places), self._is_rehearsal, self._ids
        done = prompt_tokens = completion_tokens = 0
        for row, place in zip(rows, starts, strict=False):  # the last start belongs to the next read
            index = row.index
            if index >= total or (row.rehearsal is True) is not is_rehearsal:
                self._pass_over(row, shard)
                continue
            if ids is not None and not ids.is_of(index, row.id):
                self.ignored[OTHER_ID] += 1
                continue
            if (places[index] or row.error is not None) and not self._is_better(row, place, skips_errors):
                continue
            if row.line is not _NO_LINE:
                self.is_wrapped = True
            places[index] = place
            if row.error is None:
                done += 1
                prompt_tokens += row.prompt_tokens
                completion_tokens += row.completion_tokens
        return Tally(done, 0, prompt_tokens, completion_tokens)

    def _pass_over(self, row: Line, shard: Path) -> None:
        """Refuse a line that no rank of this job wrote, if that is wanted."""
        if self._refuse is None or row is _HOLE:
            return
        if row.index >= len(self.places):
            self._refuse(shard, f"row {row.index}, but the input has {len(self.places)}")
        self._refuse(shard, f"row {row.index}, which is {'not ' if self._is_rehearsal else ''}from a rehearsal")

    def _is_better(self, row: Line, place: int, skips_errors: bool) -> bool:
        """Whether to record ``place`` for a row: its first error, or a result after an error."""
        index, before = row.index, self.places[row.index]
        if row.error is not None:
            if before or skips_errors:
                return False
            self.has_error[index] = 1
            self.tallies[split_place(place)[0]].failed += 1
            return True
        if not self.has_error[index]:
            return False
        self.has_error[index] = 0
        self.tallies[split_place(before)[0]].failed -= 1
        return True

    def _decode(self, lines: list[bytes], shard: Path) -> list[Line]:
        # Line by line: decode_lines accepts two values on one line, and one value over two lines.
        try:
            check_utf8(b"".join(lines))
            return list(map(_DECODER.decode, lines))
        except MALFORMED:
            return [self._decode_one(line, shard) for line in lines]

    def _decode_one(self, line: bytes, shard: Path) -> Line:
        try:
            check_utf8(line)
            return _DECODER.decode(line)
        except MALFORMED as error:
            if b"\0" in line:  # never in JSON: a block that a failed file server did not write
                return _HOLE
            if isinstance(error, UnicodeDecodeError):
                self.ignored[NOT_UTF8] += 1
                return _HOLE
            if self._refuse:
                self._refuse(shard, f"a line that no rank wrote ({error})")
            return _FOREIGN


def beyond(shard: Path, offset: int, total: int, is_rehearsal: bool = False, ids: RowIds | None = None) -> Tally:
    """Counts of the rows that begin at ``offset`` or later, and are what ``Scan`` takes for rows. Raises OSError."""
    tally = Tally()
    seen = set[int]()
    for lines in whole_lines(shard, offset):
        for line in lines:
            try:
                check_utf8(line)
                row = _DECODER.decode(line)
            except MALFORMED:
                continue
            if row.index >= total or (row.rehearsal is True) is not is_rehearsal:
                continue
            if ids is not None and ids.is_known and not ids.is_of(row.index, row.id):
                continue
            if row.index not in seen:
                seen.add(row.index)
                tally.add(Tally(row.error is None, row.error is not None, row.prompt_tokens, row.completion_tokens))
    return tally


def has_result(shard: Path) -> bool:
    """Whether any row of a shard has a result, read up to the first one. False if there is no such shard."""
    with suppress(FileNotFoundError):
        for lines in whole_lines(shard):
            for line in lines:
                with suppress(*MALFORMED):
                    if _DECODER.decode(line).error is None:
                        return True
    return False


def split_place(place: int) -> tuple[int, int]:
    """The number of a shard (from 0), and the offset of a line in it."""
    return (place >> OFFSET_BITS) - 1, place & ((1 << OFFSET_BITS) - 1)
