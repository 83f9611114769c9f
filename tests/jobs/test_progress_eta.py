"""The time left of a job, from a replica that takes rows as it has room: even lengths, and lengths with a long tail."""

from __future__ import annotations

import heapq
import math
import random
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from vllm_hpc.engine.interface import InFlight
from vllm_hpc.engine.loop.pace import Gauge
from vllm_hpc.jobfolder.records import JobRecord, Pace, Progress, Sample
from vllm_hpc.jobs.progress import Rows, current_speed, speed_of
from vllm_hpc.jobs.time_left import Lives
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.notebooks
MOST_TOKENS, STEP_S = 2048, 0.05


class Replica:
    """A continuous batching engine by a clock of its own: a token a step for each sequence that runs."""

    def __init__(self, lengths: list[int], slots: int, fixed: float) -> None:
        self.max_num_seqs, self._waiting, self._fixed = slots, lengths[::-1], fixed
        self._ends: list[tuple[int, int]] = []
        self.step = 0
        self.clock = 0.0
        self.done = 0

    def look(self) -> InFlight:
        lengths = [self.step - began for _, began in self._ends]
        return InFlight(len(lengths), 0, [one for one in lengths if one])

    def run(self) -> Iterator[tuple[float, int, Sample, Pace]]:
        """The clock, the rows done, a sample and the pace, whenever there is one."""
        told: list[tuple[Sample, Pace | None]] = []
        gauge = Gauge(self, lambda sample, pace: told.append((sample, pace)))  # type: ignore[arg-type]
        while self._waiting or self._ends:
            while self._waiting and len(self._ends) < self.max_num_seqs:
                heapq.heappush(self._ends, (self.step + self._waiting.pop(), self.step))
            self.step += 1
            self.clock += STEP_S * (self._fixed + (1 - self._fixed) * len(self._ends) / self.max_num_seqs)
            while self._ends and self._ends[0][0] <= self.step:
                end, began = heapq.heappop(self._ends)
                self.done += 1
                tokens = range(end - began)
                gauge.add(SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens)], prompt_token_ids=[1]))
            gauge.end_step(self.clock, len(self._ends))
            if told:
                sample, pace = told.pop()
                if pace:
                    yield self.clock, self.done, sample, pace


def same(_: random.Random) -> int:
    return 128


def even(chance: random.Random) -> int:
    return chance.randint(90, 110)


def long_tail(chance: random.Random) -> int:
    """Half are shorter than 74 tokens, one in a hundred is longer than 750."""
    return min(MOST_TOKENS, 1 + int(chance.lognormvariate(4.3, 1.0)))


def record(rows: int) -> JobRecord:
    """Of a job whose max_tokens is known, as it is by default."""
    plan = Plan(layout=Layout(nodes=1, gpus_per_node=1, procs_per_node=1, tp=1, pp=1, dp=1), engine={})
    return JobRecord(
        request=Request(model="m"), plan=plan, scheduler="local", model="m", sampling={"max_tokens": MOST_TOKENS},
        rows=rows, created_at=0.0,
    )  # fmt: skip


@pytest.mark.parametrize("draw", [same, even, long_tail])
@pytest.mark.parametrize("fixed", [0.25, 0.75])
def test_the_time_left_is_right_to_20_percent_from_a_third_of_the_job_on(
    draw: Callable[[random.Random], int], fixed: float
) -> None:
    """Of the last rows the longest one decides, which nobody knows: with a long tail, a short job ends as it likes."""
    rows, slots, chance = 12_000 if draw is long_tail else 2000, 24, random.Random(1)
    replica = Replica([draw(chance) for _ in range(rows)], slots, fixed)
    seen = list(replica.run())
    for share in (0.34, 0.4, 0.5, 0.6, 0.7, 0.8):
        at, done, sample, pace = min(seen, key=lambda one: abs(one[0] - share * replica.clock))
        progress = Progress(replica=0, attempt=1, done=done, updated_at=sample.at, now=sample, pace=pace)
        rate, eta = current_speed([progress], Rows(rows, done), record(rows))
        left = replica.clock - at
        assert eta == pytest.approx(left, rel=0.2), f"at {share:.0%}"
        assert rate == pytest.approx(slots / STEP_S, rel=0.1)


def test_rows_in_flight_count_from_the_first_second_on() -> None:
    """Before any row has finished: finished rows alone would give neither a speed nor a time."""
    replica = Replica([1000] * 64, 32, 0.5)
    _, done, sample, pace = next(replica.run())
    progress = Progress(replica=0, attempt=1, updated_at=sample.at, now=sample, pace=pace)
    rate, eta = current_speed([progress], Rows(64), record(64))
    assert (done, sample.rows, sample.running) == (0, 0, 32)
    assert sample.tokens == sample.in_flight > 0
    assert rate == pytest.approx(32 / STEP_S, rel=0.1)
    assert eta is not None and eta > 500 * STEP_S
    # Of a sequence in flight, max_tokens is the end; and no row is longer than it is allowed to be.
    assert eta <= 2 * MOST_TOKENS * STEP_S


def test_a_replica_that_hangs_slows_down() -> None:
    replica = Replica([1000] * 64, 32, 0.5)
    _, _, sample, pace = next(replica.run())
    hung = Progress(replica=0, attempt=1, updated_at=sample.at + 1000, now=sample, pace=pace)
    assert (speed_of(hung) or 0) < 0.01 * (32 / STEP_S)


def test_lengths_are_those_of_all_rows_not_of_the_short_ones() -> None:
    """Half end at 10, the others run and are at 90: the mean of what has finished says 10."""
    lives = Lives([(50, 500)], [(50, 4500)], most=100)
    assert lives.longer_than(10) == 0.5
    assert lives.mean() > 50
    assert lives.quantile(1.0) == 0.0
    assert 90 < lives.quantile(0.2) <= 135
    assert Lives([(3, 30)], []).mean() == pytest.approx(10)
    assert Lives([], []).mean() >= 0


@pytest.mark.parametrize(
    "pace",
    [
        Pace(seconds=0.0, tokens=0, slot_seconds=0.0),
        Pace(
            seconds=1000.0, tokens=-(1 << 62), slot_seconds=1.0, ended=((1 << 62, 1 << 62),), begun=((-1, -1), (70, 9))
        ),
        Pace(seconds=-1.0, tokens=-5, slot_seconds=-1.0, begun=((0, 0),)),
        Pace(seconds=1.0, tokens=1 << 62, slot_seconds=1e300, ended=((1 << 60, 1 << 62),), begun=((1 << 60, 1),)),
        Pace(seconds=1.0, tokens=1, slot_seconds=1.0, ended=((-3, 5), (2, -7)), begun=((2, -7),), fixed=-9.0),
        Pace(seconds=1e-300, tokens=1, slot_seconds=1e-300, begun=((1, 1),)),
    ],
)
def test_whatever_a_file_says_there_is_an_answer_at_once(pace: Pace) -> None:
    """The folder may be another user's."""
    progress = Progress(replica=0, attempt=1, now=Sample(at=0.0, rows=1, tokens=1), pace=pace)
    began = time.process_time()
    rate, eta = current_speed([progress], Rows(1_000_000, 1), record(1_000_000))
    assert time.process_time() - began < 1
    assert rate is None or not math.isnan(rate)
    assert eta is None or eta >= 0
