"""What the replicas did over time: their samples in bins, and the energy that their GPUs took."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord, Sample
from vllm_hpc.report.attempts import made_at
from vllm_hpc.report.facts import AttemptFacts, Energy, Samples, Series
from vllm_hpc.spec.read_file import open_regular

_BINS, _BINS_OF_MANY, _MANY = 120, 64, 8
_LONGEST_LINE = 1 << 16
# Of one file: a sample a second for a week. A foreign folder may have anything under its name.
_MOST_SAMPLES = 700_000
# No number of a sample is larger.
_LARGEST = 1e15
# Two samples further apart than this do not say what happened in between, of watts.
_LONGEST_GAP_S = 300.0
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Bins(NamedTuple):
    """Bins over the time in which attempts ran, as Unix seconds; ``cuts``: those that begin after a gap."""

    starts: list[float]
    ends: list[float]
    cuts: list[int]


class _Binned:
    """The samples of one replica: for each bin the seconds that they cover, and the sums over those."""

    def __init__(self, bins: Bins) -> None:
        self.bins = bins
        self.seconds = [0.0] * len(bins.starts)
        # tokens, running, waiting, share of the most that run, kv, watts; and the seconds in which those last are known
        self.sums = [[0.0] * len(bins.starts) for _ in range(6)]
        self.known = [[0.0] * len(bins.starts) for _ in range(3)]
        self.joules = self.metered_s = 0.0
        self.metered_tokens = 0

    def add(self, before: Sample, now: Sample) -> None:
        """Count what two samples of one attempt, one after the other, say of the time between them."""
        seconds = now.at - before.at
        if not 0 < seconds < _LARGEST:
            return
        tokens = max(0, now.tokens - before.tokens)
        if now.watts is not None and seconds <= _LONGEST_GAP_S:
            watts = now.watts if before.watts is None else (before.watts + now.watts) / 2
            self.joules += watts * seconds
            self.metered_s += seconds
            self.metered_tokens += tokens
        share = now.running / now.most_running if now.most_running else None
        values = (tokens / seconds, now.running, now.waiting, share, now.kv, now.watts)
        for place, overlap in self._places(before.at, now.at):
            self.seconds[place] += overlap
            for number, value in enumerate(values):
                if value is None:
                    continue
                self.sums[number][place] += value * overlap
                if number > 2:
                    self.known[number - 3][place] += overlap

    def _places(self, start: float, end: float) -> Iterator[tuple[int, float]]:
        place = max(0, bisect_right(self.bins.starts, start) - 1)
        while place < len(self.bins.starts) and self.bins.starts[place] < end:
            overlap = min(end, self.bins.ends[place]) - max(start, self.bins.starts[place])
            if overlap > 0:
                yield place, overlap
            place += 1

    def series(self, replica: int) -> Series:
        """The means."""
        whole = [_means(values, self.seconds, digits) for values, digits in zip(self.sums, (1, 1, 1), strict=False)]
        part = [_means(self.sums[3 + number], self.known[number], 3) for number in range(3)]
        return Series(
            replica=replica, tokens_per_s=whole[0], running=whole[1], waiting=whole[2], occupancy=part[0], kv=part[1],
            watts=part[2],
        )  # fmt: skip


def _means(sums: Sequence[float], seconds: Sequence[float], digits: int) -> tuple[float | None, ...]:
    return tuple(round(value / over, digits) if over else None for value, over in zip(sums, seconds, strict=True))


def read_samples(
    folder: JobFolder, record: JobRecord, attempts: Sequence[AttemptFacts]
) -> tuple[Samples | None, Energy | None]:
    """The samples of all replicas over the time of these attempts, and the energy; None if there are none."""
    begun = made_at(record)
    bins = _make_bins(attempts, begun, record.plan.layout.lanes)
    if bins is None:
        return None, None
    there = {path.name for path in (folder.path / "state").glob("samples-*")}
    found: dict[int, _Binned] = {}
    unreadable = 0
    for replica in range(record.plan.layout.lanes):
        binned = _Binned(bins)
        paths = [folder.samples(replica, one.attempt) for one in attempts]
        for path in paths:
            if path.name in there:
                unreadable += not _read(path, binned)
        if any(binned.seconds):
            found[replica] = binned
    if not found:
        return None, None
    samples = Samples(
        starts=tuple(round(start - begun, 2) for start in bins.starts),
        widths=tuple(round(end - start, 3) for start, end in zip(bins.starts, bins.ends, strict=True)),
        cuts=tuple(bins.cuts),
        replicas=tuple(binned.series(replica) for replica, binned in found.items()),
        unreadable=unreadable,
    )
    return samples, _energy(list(found.values()))


def _make_bins(attempts: Sequence[AttemptFacts], begun: float, replicas: int) -> Bins | None:
    spans = list(_merged(sorted(_spans(attempts, begun))))
    if not spans:
        return None
    total = sum(end - start for start, end in spans)
    most, least = (_BINS_OF_MANY if replicas > _MANY else _BINS), 4 if len(spans) < 12 else 1
    starts: list[float] = []
    ends: list[float] = []
    cuts: list[int] = []
    for start, end in spans:
        number = max(least, round(most * (end - start) / total))
        cuts += [len(starts)] if starts else []
        edges = [start + (end - start) * place / number for place in range(number + 1)]
        starts += edges[:-1]
        ends += edges[1:]
    return Bins(starts, ends, cuts)


def _spans(attempts: Sequence[AttemptFacts], begun: float) -> Iterator[tuple[float, float]]:
    for one in attempts:
        work = [part for part in one.parts if part.name not in ("queue", "collect")]
        if work:
            yield begun + work[0].start, begun + max(work[-1].end, work[0].start + 1.0)


def _merged(spans: Sequence[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """Tasks of an array run beside each other."""
    begun: tuple[float, float] | None = None
    for start, end in spans:
        if begun is not None and start <= begun[1]:
            begun = (begun[0], max(begun[1], end))
        else:
            if begun is not None:
                yield begun
            begun = (start, end)
    if begun is not None:
        yield begun


def _read(path: Path, binned: _Binned) -> bool:
    """Add the samples of a file; whether it could be read, and had any."""
    before: Sample | None = None
    try:
        for now in _samples(path):
            if before is not None:
                binned.add(before, now)
            before = now
    except OSError:
        return False
    return before is not None


def _samples(path: Path) -> Iterator[Sample]:
    """Those of the complete lines that are some. Raises OSError."""
    decoder = msgspec.json.Decoder(Sample)
    with open_regular(path, follow_links=False) as file:
        for _ in range(_MOST_SAMPLES):
            line = file.readline(_LONGEST_LINE)
            if not line:
                return
            try:
                one = decoder.decode(line)
            except _MALFORMED:
                continue
            if _is_sane(one):
                yield one


def _is_sane(one: Sample) -> bool:
    numbers = (one.at, one.tokens, one.running, one.waiting, one.most_running or 0, one.kv or 0, one.watts or 0)
    return all(0 <= number < _LARGEST for number in numbers)


def _energy(found: Sequence[_Binned]) -> Energy | None:
    metered = [one for one in found if one.metered_s > 0]
    joules = sum(one.joules for one in metered)
    if not joules:
        return None
    tokens = sum(one.metered_tokens for one in metered)
    return Energy(
        kwh=joules / 3.6e6,
        joules_per_token=round(joules / tokens, 4) if tokens else None,
        replicas=len(metered),
        seconds=round(max(one.metered_s for one in metered), 1),
    )
