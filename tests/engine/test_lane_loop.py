"""The loops of several lanes, each in a thread of its own: as many steps on all, and all leave in one turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from tests import crafted
from tests.engine.test_loop import MOST, Engine, Ready, make, new_store
from tests.marks import needs_torch
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.loop.chunk_claims import StoreClaims
from vllm_hpc.engine.loop.lanes import LaneState, Turn
from vllm_hpc.engine.loop.step_timer import Meter
from vllm_hpc.engine.loop.suspect_rows import Prior
from vllm_hpc.jobfolder.chunks import EvenChunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.spec.layout import Layout

pytestmark = [needs_torch, pytest.mark.timeout(120)]


class Together:
    """The lanes of one process, which meet at a barrier; one that left alone would break it."""

    def __init__(self, count: int) -> None:
        self._barrier = Barrier(count)
        self.states: list[LaneState] = [LaneState(False, True)] * count
        # The rows in flight of each lane in each turn.
        self.turns: list[tuple[bool, ...]] = []

    def of(self, lane: int) -> Meeting:
        return Meeting(self, lane)

    def meet(self, lane: int, state: LaneState) -> Turn:
        self.states[lane] = state
        if self._barrier.wait(20) == 0:
            self.turns.append(tuple(one.is_busy for one in self.states))
        told = list(self.states)
        self._barrier.wait(20)
        trials = [number for number, one in enumerate(told) if one.is_on_trial]
        return Turn(
            any(one.is_busy for one in told),
            any(one.goes_on for one in told),
            max(one.order for one in told),
            not trials or trials[0] == lane,
        )


class Meeting:
    def __init__(self, together: Together, lane: int) -> None:
        self._together, self._lane = together, lane

    def meet(self, state: LaneState) -> Turn:
        return self._together.meet(self._lane, state)


class LaneEngine(Engine):
    def __init__(self) -> None:
        super().__init__()
        self.idle = 0

    def idle_step(self) -> None:
        assert not self.left, "a lane with rows takes a step of its own"
        self.idle += 1


class Lane:
    """A lane of one rank; ``trials`` are its rows that may have killed an engine."""

    def __init__(
        self, folder: JobFolder, together: Together, number: int, lanes: int, store: Any,
        trials: Sequence[list[int]] = (), probe: Any = None,
    ) -> None:  # fmt: skip
        from vllm_hpc.engine.loop.lane_loop import LaneLoop
        from vllm_hpc.engine.loop.leader import Chief, ReplicaRun
        from vllm_hpc.engine.loop.lockstep import Lockstep
        from vllm_hpc.engine.loop.loop import Gauges, Lead, Work
        from vllm_hpc.engine.loop.row_prefetch import Feed

        rows = folder.job().rows
        self.engine, self.meter = LaneEngine(), Meter(1, MOST, {})
        self.feed = Feed(InputReader(folder), make, 2 * MOST)
        prior = Prior(folder, folder.job())
        for row in (row for group in trials for row in group):
            prior.rows[row] = 1
        self.writer = ShardWriter(folder, number, 1, prior.tally(number), self.meter.run, 5.0)
        chunks = EvenChunks(rows, 3)
        self.chief = Chief(
            ReplicaRun(folder, number, 1, 40.0), StoreClaims(store, chunks, prior, number, lanes), self.writer, store
        )
        self.chief._looked = float("-inf")
        own = trials if number == 0 else ()
        work = Work(0, chunks, prior.rows, list(own), rows, probe)
        gauges = Gauges(self.meter, RankReport(folder, number, number, 1))
        lead = Lead(self.chief, self.writer)
        self.loop = LaneLoop(together.of(number), self.engine, self.feed, Lockstep(0, 0, None), work, gauges, lead)

    def run(self) -> None:
        try:
            self.loop.run()
        finally:
            self.feed.close()
            self.writer.close()

    @property
    def steps(self) -> int:
        return len(self.engine.held) + self.engine.idle


Prepare = Callable[[list[Lane], JobFolder], None]


def run_lanes(
    tmp_path: Path, count: int, rows: int, prepare: Prepare = lambda lanes, folder: None, **how: Any
) -> tuple[list[Lane], Together, list[int]]:
    """The lanes after their run, how they met, and the indices of the rows that they wrote."""
    shape = Layout(nodes=1, gpus_per_node=count, procs_per_node=count, tp=1, pp=1, dp=1, attention_dp=count)
    folder = crafted.make_job(tmp_path / "job", [{"prompt": "p"} for _ in range(rows)], shape=shape)
    together, store = Together(count), new_store()
    lanes = [Lane(folder, together, number, count, store, **how) for number in range(count)]
    prepare(lanes, folder)
    with ThreadPoolExecutor(count) as pool:
        for one in [pool.submit(lane.run) for lane in lanes]:
            one.result(60)
    written = [row["index"] for lane in range(count) for row in crafted.read_lines(folder.shard(lane, 1))]
    return lanes, together, sorted(written)


@pytest.mark.parametrize("rows", [1, 7, 61])
def test_every_row_once_and_as_many_steps_on_all_lanes(tmp_path: Path, rows: int) -> None:
    lanes, together, written = run_lanes(tmp_path, 3, rows)
    assert written == list(range(rows))
    assert len({lane.steps for lane in lanes}) == 1
    assert len({lane.meter.steps for lane in lanes}) == 1
    assert together.states == [LaneState(False, False)] * 3, "all left in the same turn"
    assert rows > 1 or sorted(lane.engine.idle for lane in lanes)[1:] == [lanes[0].steps] * 2


def test_a_lane_that_is_told_to_stop_takes_all_with_it(tmp_path: Path) -> None:
    def prepare(lanes: list[Lane], folder: JobFolder) -> None:
        def stop(engine: LaneEngine) -> None:
            if len(engine.held) == 4:
                lanes[1].chief._stop_at = 0.0

        lanes[1].engine.before = stop

    lanes, _, written = run_lanes(tmp_path, 2, 200, prepare)
    assert len(written) < 100
    assert len({lane.steps for lane in lanes}) == 1
    assert any(lane.loop._in_flight for lane in lanes), "they left rows in flight"


def test_a_drain_lets_the_rows_in_flight_of_all_lanes_end(tmp_path: Path) -> None:
    def prepare(lanes: list[Lane], folder: JobFolder) -> None:
        def ask(engine: LaneEngine) -> None:
            if len(engine.held) == 4:
                folder.drain.touch()
                for lane in lanes:
                    lane.chief._looked = float("-inf")

        lanes[0].engine.before = ask

    lanes, _, written = run_lanes(tmp_path, 2, 200, prepare)
    assert sorted(row for lane in lanes for row in lane.engine.admitted) == written
    assert len(written) < 100
    assert len({lane.steps for lane in lanes}) == 1


def test_while_a_lane_tries_rows_the_others_run_none(tmp_path: Path) -> None:
    """Who kills the engine then is known."""
    trials = [[5, 17], [40]]
    lanes, together, written = run_lanes(tmp_path, 2, 60, trials=trials)
    assert written == list(range(60))
    assert lanes[0].engine.admitted[:3] == [5, 17, 40]
    alone = together.turns.index((True, True))
    assert all(not second for _, second in together.turns[:alone])
    assert sum(first for first, _ in together.turns[:alone]) >= 4, "two groups, of two steps or more each"


@pytest.mark.parametrize("of", [(0,), (1,), (0, 1), ()])
def test_a_probe_of_some_lanes(tmp_path: Path, of: tuple[int, ...]) -> None:
    """Each decides by itself: the files of the last attempt may be seen by one host and not yet by another."""

    def prepare(lanes: list[Lane], folder: JobFolder) -> None:
        probe: Any = Ready({"index": -1, "id": "probe"}, "p", None)
        for number in of:
            lanes[number].loop._probe = probe

    lanes, _, written = run_lanes(tmp_path, 2, 20, prepare)
    assert written == list(range(20))
    assert len({lane.steps for lane in lanes}) == 1


def test_a_probe_that_takes_longer_on_one_lane(tmp_path: Path) -> None:
    def prepare(lanes: list[Lane], folder: JobFolder) -> None:
        def slower(engine: LaneEngine) -> None:
            if engine.left.get("probe") == 1 and len(engine.held) < 5:
                engine.left["probe"] = 2

        lanes[1].engine.before = slower

    probe: Any = Ready({"index": -1, "id": "probe"}, "p", None)
    lanes, _, written = run_lanes(tmp_path, 2, 20, prepare, probe=probe)
    assert written == list(range(20))
    assert len({lane.steps for lane in lanes}) == 1
    assert lanes[0].engine.idle >= 3
