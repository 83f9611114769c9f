"""What earlier attempts leave to this one: finished rows, and rows suspected of having killed the engine.

A row can end the engine: by an exception in a step, an illegal address, a segmentation fault. With hundreds of rows in
flight, nobody knows which row it was. So the next attempt puts them on trial: it runs them in groups, one after the
other, before everything else. A group that ends the engine again is tried in smaller groups, down to one row, and a row
that has ended two attempts alone becomes an error row. A rank that vanished without an error was most likely killed
from outside: its rows are tried only if they were also in flight the time before, and that counts half. A row stays on
trial until it has run: an attempt that ends for another reason clears none.

Of the machine's own faults no row is the cause (jobfolder/early_faults.py): a probe that dies leaves every row as it
was, and where no row has finished, the suspect is run a second time only after another row has survived.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.chunks import Chunks
from vllm_hpc.jobfolder.early_faults import has_died
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_claimed, read_json, write_json
from vllm_hpc.jobfolder.records import Crash, JobRecord, Retry
from vllm_hpc.jobfolder.shards import Scan, Tally, finished

# Groups in a trial: an attempt costs a start of the engine, a group no more than its longest row.
_GROUPS = 8
# How much an attempt's end weighs against the row that was alone in it, and the weight that condemns a row: that of two
# engine errors. Ranks that vanished may have been killed from outside, so they weigh less.
_CRASHED, _VANISHED, _CONDEMNED = 2, 1, 4


class Suspects(msgspec.Struct, frozen=True):
    """state/suspects-<replica>.json, after attempt ``attempt`` was judged.

    ``tried`` rows will run in groups; ``silent`` rows were in flight when a rank vanished; ``strikes`` weighs the
    attempts that a row has ended alone, since errors up to attempt ``retried`` were asked to run again.
    """

    attempt: int = 0
    tried: list[int] = []
    silent: list[int] = []
    strikes: dict[int, int] = {}
    retried: int = 0


class SuspectTrial(msgspec.Struct, frozen=True):
    """What all ranks of a replica must know: the groups to run first, and the rows that no longer run."""

    groups: list[list[int]] = []
    condemned: list[int] = []


class Flight(msgspec.Struct, frozen=True):
    """Rows in flight at an attempt's end, rising; ``is_trial``: they were alone; ``has_begun``: a row was begun."""

    rows: list[int]
    is_trial: bool
    has_begun: bool


class Prior:
    """What the first rank knows about a job's earlier attempts, read when an attempt starts."""

    def __init__(self, job: JobFolder, record: JobRecord) -> None:
        retry = read_json(job.retry, Retry)
        self._retried = retry.errors_up_to if retry else 0
        self._lanes, self._is_rehearsal = record.plan.layout.lanes, record.request.rehearse
        found = finished(job, record.rows, self._retried)
        self.rows, self._by_lane = found.rows, found.by_lane

    def tally(self, replica: int) -> Tally:
        """The counts of what a replica has written."""
        return self._by_lane.get(replica, Tally())

    def learn(self, shard: Path) -> None:
        """Read the shard of an array's task that has died since."""
        if shard.exists():
            found = Scan([shard], len(self.rows), self._is_rehearsal, retry_errors_of=self._retried)
            for index, place in enumerate(found.places):
                if place:
                    self.rows[index] = 1

    def judge(self, job: JobFolder, replica: int, attempts: Sequence[int], chunks: Chunks, most: int) -> SuspectTrial:
        """Put rows on trial, depending on how the earlier ``attempts`` ended for a replica."""
        known = self._suspects(job, replica, attempts, chunks, most)
        condemned = [row for row, strikes in known.strikes.items() if strikes >= _CONDEMNED and not self.rows[row]]
        tried = [row for row in known.tried if not self.rows[row] and row not in condemned]
        size = max(1, -(-len(tried) // _GROUPS))
        groups = [tried[begin : begin + size] for begin in range(0, len(tried), size)]
        if len(tried) == 1 and tried[0] in known.strikes:
            groups = [*self._control(tried[0]), *groups]
        return SuspectTrial(groups, condemned)

    def _control(self, suspect: int) -> list[list[int]]:
        """Another row, to be run alone before the suspect: if it dies too, the rows are not the cause.

        None is needed if any row of the job has a result.
        """
        if any(tally.done for tally in self._by_lane.values()):
            return []
        return [[row] for row in range(len(self.rows)) if row != suspect and not self.rows[row]][:1]

    def record(self, job: JobFolder, replica: int, attempts: Sequence[int], chunks: Chunks, most: int) -> None:
        """Record the verdicts, from which later attempts start."""
        write_json(job.suspects(replica), self._suspects(job, replica, attempts, chunks, most))

    def reserve(self, trials: Iterable[SuspectTrial]) -> None:
        """Remove rows on trial, and condemned ones, from what replicas may claim."""
        for trial in trials:
            for row in [*trial.condemned, *(row for group in trial.groups for row in group)]:
                self.rows[row] = 1

    def _suspects(self, job: JobFolder, replica: int, attempts: Sequence[int], chunks: Chunks, most: int) -> Suspects:
        known = read_json(job.suspects(replica), Suspects) or Suspects()
        if self._retried > known.retried:  # a condemned row gets another chance, alone
            tried = {*known.tried, *(row for row, strikes in known.strikes.items() if strikes >= _CONDEMNED)}
            known = msgspec.structs.replace(known, tried=sorted(tried), strikes={}, retried=self._retried)
        for attempt in attempts:
            if attempt > known.attempt:
                crashed = [one for one in range(self._lanes) if job.crash(one, attempt).exists()]
                flight = self._in_flight(job, replica, attempt, chunks, most)
                known = _after(known, flight, replica, attempt, crashed, has_died(job, attempt))
        return known

    def _in_flight(self, job: JobFolder, replica: int, attempt: int, chunks: Chunks, most: int) -> Flight:
        """The rows that the attempt had begun but not finished; in a trial, only those of its last group.

        Rows are admitted in the order of the chunks, ``most`` at a time: those in flight are the first unfinished ones,
        among as many again that had finished but were not written yet.
        """
        lines = read_claimed(job.claimed(replica, attempt))
        if lines and lines[-1].probe:
            return Flight([], is_trial=False, has_begun=False)
        trial = lines[-1].trial if lines else None
        begun = trial if trial is not None else (row for line in lines for row in _rows_of(line.chunk, chunks))
        rows = dict.fromkeys(row for row in begun if row < len(self.rows) and not self.rows[row])
        limit = None if trial is not None else 2 * most
        return Flight(sorted(islice(rows, limit)), trial is not None, bool(lines))


def _rows_of(chunk: int | None, chunks: Chunks) -> Sequence[int]:
    return () if chunk is None else chunks.rows(chunk)


def earlier_attempts(job: JobFolder, task: int, attempt: int) -> list[int]:
    """The attempts of this task before ``attempt``, oldest first."""
    return [one.attempt for one in job.attempts() if one.task == task and one.attempt < attempt]


def explain_suspects(job: JobFolder, replica: int, attempts: Sequence[int]) -> str:
    """Why a row was condemned."""
    crashes = (read_json(job.crash(replica, attempt), Crash) for attempt in reversed(attempts))
    crash = next((crash for crash in crashes if crash), None)
    how = f"{crash.type}: {crash.message}" if crash else "a rank vanished without an error"
    return f"the engine died repeatedly with this row alone in it: {how}"


def _after(known: Suspects, flight: Flight, replica: int, attempt: int, crashed: list[int], has_died: bool) -> Suspects:
    """Judge an attempt by its end, the replicas that crashed in it, and what was in flight then."""
    if not flight.has_begun:
        return msgspec.structs.replace(known, attempt=attempt)
    if not has_died or (crashed and replica not in crashed):
        return msgspec.structs.replace(known, attempt=attempt, silent=[])
    if flight.is_trial:
        strikes = dict(known.strikes)
        if len(flight.rows) == 1:
            strikes[flight.rows[0]] = strikes.get(flight.rows[0], 0) + (_CRASHED if crashed else _VANISHED)
        return msgspec.structs.replace(known, attempt=attempt, tried=flight.rows, silent=[], strikes=strikes)
    if crashed:
        return msgspec.structs.replace(known, attempt=attempt, tried=flight.rows, silent=[])
    again = set(known.silent).intersection(flight.rows)
    return msgspec.structs.replace(known, attempt=attempt, tried=sorted(again), silent=flight.rows)
