"""Shards: what the replicas have written, one line a finished row, over all attempts.

The one reader of them, for resume, status and collect. A torn last line (its writer was killed, or is not done) is no
row, nor is a line of which the file system lost a part, and left zeros. Of a row that stands in two places the lowest
attempt's wins, but a result wins over an error.

Shards may hold tens of millions of short rows: the loops here are what a ``collect`` takes, so they run over local
names, many lines a read, and what is kept of a row is nine bytes.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder

# Bytes of lines that are taken at a time: they and what is decoded of them stay in the CPU's cache.
_READ = 1 << 17
# A place is a shard's number, counted from 1, above the offset of a line in it: 16 TiB a shard. 0 is no place.
OFFSET_BITS = 44
_NO_LINE = msgspec.Raw()

# Raises for a line that no rank wrote: given its shard, and what is wrong.
Refuse = Callable[[Path, str], None]


class Line(msgspec.Struct, gc=False):
    """What is read of a shard's line. ``line``: what collect writes in its stead, where its row came in so."""

    index: Annotated[int, msgspec.Meta(ge=0)]
    error: Any = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    line: msgspec.Raw = _NO_LINE
    rehearsal: Any = None


_DECODER = msgspec.json.Decoder(Line)
# Stand for a line that no rank wrote, and for one with a hole in it: a place that no input has.
_FOREIGN, _HOLE = Line(1 << 62), Line(1 << 62)


class Tally(msgspec.Struct):
    """Counts of rows with a result and with an error, and of the results' tokens."""

    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def add(self, other: Tally) -> None:
        """Count the rows of another beside one's own."""
        self.done += other.done
        self.failed += other.failed
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens


class Finished(msgspec.Struct, frozen=True):
    """Which rows need not run again: ``rows[index]`` is 1; and what each replica has written of them."""

    rows: bytearray
    by_replica: dict[int, Tally]


def finished(folder: JobFolder, total: int, retry_errors_of: int = 0) -> Finished:
    """What the shards hold of the ``total`` rows. An error of attempts up to ``retry_errors_of`` is to be run again."""
    shards = folder.shard_files()
    found = Scan(shards, total, folder.job().request.rehearse, retry_errors_of=retry_errors_of)
    by_replica: dict[int, Tally] = {}
    for shard, tally in zip(shards, found.tallies, strict=True):
        by_replica.setdefault(shard_numbers(shard)[0], Tally()).add(tally)
    return Finished(bytearray(map(bool, found.places)), by_replica)


class Scan:
    """Where each of ``total`` rows stands in the shards, which come with the lowest attempt first.

    ``places``: by index, what ``split_place`` takes apart. Lines that no rank wrote are passed over, unless ``refuse``
    raises; those with a hole of zeros always are: their rows run again. A rehearsal's rows are its own only
    (``is_rehearsal``): no other job takes them. Raises OSError where a shard cannot be read.
    """

    def __init__(
        self,
        shards: list[Path],
        total: int,
        is_rehearsal: bool = False,
        refuse: Refuse | None = None,
        retry_errors_of: int = 0,
    ) -> None:
        self.places = array("Q", [0]) * total
        self.tallies = [Tally() for _ in shards]
        self.is_wrapped = False  # whether any row has a ``line``
        self._has_error = bytearray(total)
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
        for lines in _whole_lines(shard):
            rows = self._decode(lines, shard)
            done = self._take(rows, accumulate(map(len, lines), initial=start), shard, skips_errors)
            self.tallies[number].add(done)
            start += sum(map(len, lines))

    def _take(self, rows: list[Line], starts: Iterable[int], shard: Path, skips_errors: bool) -> Tally:
        """Note the rows of one read, and count the results that are taken. Nearly every row is new and a result."""
        places, total, is_rehearsal = self.places, len(self.places), self._is_rehearsal
        done = prompt_tokens = completion_tokens = 0
        for row, place in zip(rows, starts, strict=False):  # the last start is that of the next read
            index = row.index
            if index >= total:
                if self._refuse and row is not _HOLE:
                    self._refuse(shard, f"row {index}, and the input has {total}")
                continue
            if (row.rehearsal is True) is not is_rehearsal:
                if self._refuse:
                    self._refuse(shard, f"row {index}, which is {'not ' if is_rehearsal else ''}a rehearsal's")
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

    def _is_better(self, row: Line, place: int, skips_errors: bool) -> bool:
        """Whether a row is to stand at ``place``: the first error that is known of it, or a result after an error."""
        index, before = row.index, self.places[row.index]
        if row.error is not None:
            if before or skips_errors:
                return False
            self._has_error[index] = 1
            self.tallies[split_place(place)[0]].failed += 1
            return True
        if not self._has_error[index]:
            return False
        self._has_error[index] = 0
        self.tallies[split_place(before)[0]].failed -= 1
        return True

    def _decode(self, lines: list[bytes], shard: Path) -> list[Line]:
        # Line by line: decode_lines takes two values on a line, or a value on two, for as many rows.
        try:
            return list(map(_DECODER.decode, lines))
        except (msgspec.DecodeError, RecursionError):
            return [self._decode_one(line, shard) for line in lines]

    def _decode_one(self, line: bytes, shard: Path) -> Line:
        try:
            return _DECODER.decode(line)
        except (msgspec.DecodeError, RecursionError) as error:
            if b"\0" in line:  # no JSON has it: a block that was never written, of a server that was lost
                return _HOLE
            if self._refuse:
                self._refuse(shard, f"a line that no rank wrote ({error})")
            return _FOREIGN


def beyond(shard: Path, offset: int, is_rehearsal: bool = False) -> Tally:
    """Counts of the rows that begin at ``offset`` or after it, of a rehearsal or of none. Raises OSError."""
    tally = Tally()
    seen = set[int]()
    for lines in _whole_lines(shard, offset):
        for line in lines:
            try:
                row = _DECODER.decode(line)
            except (msgspec.DecodeError, RecursionError):
                continue
            if row.index not in seen and (row.rehearsal is True) is is_rehearsal:
                seen.add(row.index)
                tally.add(Tally(row.error is None, row.error is not None, row.prompt_tokens, row.completion_tokens))
    return tally


def split_place(place: int) -> tuple[int, int]:
    """The number of a shard, from 0, and the offset of a line in it."""
    return (place >> OFFSET_BITS) - 1, place & ((1 << OFFSET_BITS) - 1)


def _whole_lines(shard: Path, offset: int = 0) -> Iterator[list[bytes]]:
    """The lines of a shard, many at a time, up to the torn one if there is one, and to its end as it is now."""
    with shard.open("rb") as file:
        left = os.fstat(file.fileno()).st_size - offset
        file.seek(offset)
        while left > 0 and (lines := file.readlines(_READ)):
            if not lines[-1].endswith(b"\n"):  # perhaps it is being written: what comes next would be its other half
                yield lines[:-1]
                return
            yield lines
            left -= sum(map(len, lines))


def shard_numbers(shard: Path) -> tuple[int, int]:
    """The replica and the attempt of a shard."""
    replica, attempt = shard.stem.removeprefix("replica-").split(".")
    return int(replica), int(attempt)
