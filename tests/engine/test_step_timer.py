"""Where a replica's time goes, by a clock of the test's."""

from __future__ import annotations

import pytest

from vllm_hpc.engine.loop import step_timer
from vllm_hpc.engine.loop.step_timer import Meter


class Clock:
    now = 100.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(step_timer, "time", found)
    return found


def step(of: Meter, clock: Clock, seconds: float, sequences: int, gap: float = 0.0) -> None:
    clock.now += gap
    of.begin_step()
    clock.now += seconds
    of.end_step(sequences)


def test_seconds_and_occupancy(clock: Clock) -> None:
    one = Meter(3, 10, {"import": 1.0, "load": 2.0})
    step(one, clock, 4.0, 10, gap=1.0)  # the first: warm-up, with the gap before it
    step(one, clock, 2.0, 5, gap=0.5)
    one.pause()
    clock.now += 7.0  # nothing in flight: no idleness
    one.pause()
    step(one, clock, 2.0, 5, gap=0.25)
    one.drain()
    clock.now += 3.0
    one.drain()  # only the first counts
    run = one.run(6, 60, 600)
    assert run.seconds == {
        "import": 1.0, "load": 2.0, "warm_up": 5.0, "generate": 11.75, "drain": 3.0, "idle": 0.75,
    }  # fmt: skip
    assert run.occupancy == (4 * 10 + 2 * 5 + 2 * 5) / 8 / 10
    assert (run.attempt, run.steps, run.rows, run.prompt_tokens, run.completion_tokens) == (3, 3, 6, 60, 600)


def test_before_the_first_step_all_is_warm_up(clock: Clock) -> None:
    one = Meter(1, 10, {})
    clock.now += 2.0
    one.drain()
    clock.now += 3.0
    run = one.run(0, 0, 0)
    assert run.seconds == {"warm_up": 5.0, "generate": 0.0, "drain": 0.0, "idle": 0.0}
    assert (run.steps, run.occupancy) == (0, 0.0)


def test_a_drain_in_the_first_step_counts_from_its_end(clock: Clock) -> None:
    one = Meter(1, 10, {})
    one.drain()
    step(one, clock, 4.0, 1)
    clock.now += 1.0
    assert one.run(0, 0, 0).seconds == {"warm_up": 4.0, "generate": 0.0, "drain": 1.0, "idle": 0.0}
