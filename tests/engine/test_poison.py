"""A row that kills every engine it runs in: over attempts, it alone becomes an error row, and all others finish.

A machine that kills every engine ends the job instead, and no row is blamed.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests import crafted
from vllm_hpc.engine.loop.suspect_rows import Prior, earlier_attempts
from vllm_hpc.jobfolder.chunks import EvenChunks as Chunks
from vllm_hpc.jobfolder.early_faults import needs_probe
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Claimed, Crash, Progress, Run
from vllm_hpc.jobfolder.shards import Scan
from vllm_hpc.rows.row import Row
from vllm_hpc.schedulers.in_script.requeue import should_run_again

ROWS, IN_FLIGHT = 400, 64
# What a broken machine kills: an engine with any row in it, or only with rows that need what a probe does not.
EVERYTHING, ALL_ROWS = "everything", "all rows"


class Died(Exception):  # noqa: N818
    """A replica's engine, by number."""


class Replica:
    """One replica of an attempt, a row at a time; its engine dies as soon as a poisonous row is in it."""

    def __init__(
        self, job: JobFolder, number: int, attempt: int, poison: set[int], chunks: Chunks, broken: str | None
    ) -> None:
        self.job, self.number, self.attempt, self.poison, self.chunks = job, number, attempt, poison, chunks
        self.broken = broken
        self.known, self.ran = Prior(job, job.job()), 0
        before = earlier_attempts(job, 0, attempt)
        if before:
            self.known.record(job, number, before, chunks, IN_FLIGHT + 1)
        every = [self.known.judge(job, one, before, chunks, IN_FLIGHT + 1) for one in range(job.job().plan.layout.dp)]
        self.known.reserve(every)
        self.trials, self.flying = list(every[number].groups), list[int]()
        for row in every[number].condemned:
            self.write({"index": row, "id": str(row), "error": {"type": "EngineDiedError", "message": ""}})

    def probe(self) -> None:
        before = earlier_attempts(self.job, 0, self.attempt)
        if needs_probe(self.job, range(self.job.job().plan.layout.dp), before):
            self.note(Claimed(probe=True))
            if self.broken == EVERYTHING:
                raise Died(self.number)

    def write(self, row: Row) -> None:
        self.ran += 1
        with self.job.shard(self.number, self.attempt).open("ab") as file:
            file.write(msgspec.json.encode(row) + b"\n")

    def note(self, line: Claimed) -> None:
        with self.job.claimed(self.number, self.attempt).open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def admit(self, rows: list[int]) -> None:
        for row in rows:
            self.flying.append(row)
            if row in self.poison or self.broken:
                raise Died(self.number)
            if len(self.flying) > IN_FLIGHT:
                self.write(crafted.result(self.flying.pop(0)))

    def land(self) -> None:
        while self.flying:
            self.write(crafted.result(self.flying.pop(0)))

    def turn(self, free: list[int]) -> bool:
        """A trial, or else a chunk; False when there is nothing left to begin."""
        if self.trials:
            self.land()
            self.note(Claimed(trial=self.trials[0]))
            self.admit(self.trials.pop(0))
            self.land()
            return True
        if not free:
            return False
        chunk = free.pop(0)
        rows = [row for row in self.chunks.rows(chunk) if not self.known.rows[row]]
        if rows:
            self.note(Claimed(chunk=chunk))
            self.admit(rows)
        return True


def run_attempt(job: JobFolder, attempt: int, poison: set[int], broken: str | None = None) -> int:
    """One attempt of all replicas, turn by turn; returns its exit code."""
    crafted.start(job, attempt)
    replicas = job.job().plan.layout.dp
    chunks = Chunks.of(ROWS, replicas, is_array=False)
    free = list(range(chunks.count))
    world = [Replica(job, number, attempt, poison, chunks, broken) for number in range(replicas)]
    world.sort(key=lambda one: len(one.trials))
    code = 0
    try:
        for one in world:
            one.probe()
        while sum(one.turn(free) for one in world for _ in range(1 if one.trials else 8)):  # alone, rows are slow
            pass
        for one in world:
            one.land()
    except Died as death:
        code, number = 1, death.args[0]
        said = f"illegal address 0x7f{attempt}a of process {attempt * 1000}"
        write_json(job.crash(number, attempt), Crash(number, "RuntimeError", said))
    tallies = Scan(job.shard_files(), ROWS).tally
    for one in world:  # the first replica's counts stand for all
        done, failed = (tallies.done, tallies.failed) if one.number == 0 else (0, 0)
        runs = (Run(attempt=attempt, rows=one.ran),)
        write_json(
            job.progress(one.number), Progress(replica=one.number, attempt=attempt, done=done, failed=failed, runs=runs)
        )
    return code


@pytest.mark.parametrize(
    ("replicas", "poison"),
    [(1, {37}), (1, {0}), (1, {399}), (2, {37}), (2, {37, 300}), (1, {37, 38}), (4, {150})],
)
def test_poison_is_found_within_the_attempts_there_are(tmp_path: Path, replicas: int, poison: set[int]) -> None:
    job = crafted.make_job(tmp_path / "job", ROWS, shape=crafted.layout(dp=replicas))
    attempt = 1
    while code := run_attempt(job, attempt, poison):
        again, why = should_run_again(job, attempt, code)
        assert again, f"after attempt {attempt}: {why}"
        crafted.end(job, code, "requeue", attempt)
        attempt += 1
    found = Scan(job.shard_files(), ROWS)
    assert (found.tally.done, found.tally.failed) == (ROWS - len(poison), len(poison))
    failed = {row["index"] for shard in job.shard_files() for row in crafted.read_lines(shard) if "error" in row}
    assert failed == poison
    assert attempt <= 1 + 5 * len(poison)


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("broken", "replicas", "attempts"),
    [(EVERYTHING, 1, 2), (EVERYTHING, 2, 2), (ALL_ROWS, 1, 3)],
)
def test_a_broken_machine_ends_the_job_and_no_row_is_blamed(
    tmp_path: Path, broken: str, replicas: int, attempts: int
) -> None:
    job = crafted.make_job(tmp_path / "job", ROWS, shape=crafted.layout(dp=replicas))
    for attempt in range(1, attempts + 1):
        code = run_attempt(job, attempt, set(), broken)
        again, why = should_run_again(job, attempt, code)
        assert again is (attempt < attempts), f"after attempt {attempt}: {why}"
        crafted.end(job, code, "requeue" if again else "exit", attempt)
    assert ("no row is the cause" if broken == EVERYTHING else "the rows are not the cause") in why
    tally = Scan(job.shard_files(), ROWS).tally
    assert (tally.done, tally.failed) == (0, 0)


@pytest.mark.inputs
def test_a_machine_that_is_mended_goes_on(tmp_path: Path) -> None:
    """After 'vllm-hpc resume': every row is run, also those that had been on trial."""
    job = crafted.make_job(tmp_path / "job", ROWS)
    for attempt in (1, 2):
        crafted.end(job, run_attempt(job, attempt, set(), EVERYTHING), "exit", attempt)
    assert run_attempt(job, 3, set()) == 0
    assert Scan(job.shard_files(), ROWS).tally.done == ROWS
