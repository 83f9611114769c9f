"""What a replica's first rank tells of its speed: samples of what is in flight, in a file that stays small."""

from __future__ import annotations

import errno
import os
from collections import deque
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from tests import crafted
from tests.engine.test_loop import MOST, alone, make_job
from tests.engine.test_rehearsal import record
from tests.engine.test_shard_writer import counts, open_writer
from tests.marks import needs_torch
from vllm_hpc.engine.health.sample_file import SampleFile
from vllm_hpc.engine.health.watts import Watts
from vllm_hpc.engine.interface import InFlight, Ready
from vllm_hpc.engine.loop.pace import Gauge, Lengths, StepCost
from vllm_hpc.engine.rehearsal.engine import RehearsalEngine
from vllm_hpc.engine.rehearsal.faults import FaultPlan
from vllm_hpc.engine.vllm_patches import in_flight
from vllm_hpc.jobfolder.records import Pace, Sample
from vllm_hpc.spec.rehearsal import Rehearsal

pytestmark = pytest.mark.notebooks


def read_samples(path: Path) -> list[Sample]:
    return [msgspec.json.decode(line, type=Sample) for line in path.read_bytes().splitlines() if line]


# -- what is seen --------------------------------------------------------------------------------------------------
class Engine:
    """One that holds what a test puts into it."""

    max_num_seqs = 4

    def __init__(self, *seen: InFlight | None) -> None:
        self.seen = deque(seen)

    def look(self) -> InFlight | None:
        return self.seen.popleft()


def output(*tokens: int) -> Any:
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=range(count)) for count in tokens], prompt_token_ids=[1])


def told(engine: Any) -> tuple[Gauge, list[tuple[Sample, Pace | None]]]:
    found: list[tuple[Sample, Pace | None]] = []
    return Gauge(engine, lambda sample, pace: found.append((sample, pace))), found


def test_rows_in_flight_count_with_what_they_have() -> None:
    gauge, found = told(Engine(InFlight(2, 1, [10, 20], 0.25), InFlight(1, 0, [50], 0.5)))
    gauge.end_step(100.0, 3)
    gauge.end_step(100.5, 3)  # too early for another
    gauge.add(output(30))
    gauge.add_failed()
    gauge.end_step(102.0, 1)
    (first, _), (second, pace) = found
    assert (first.tokens, first.in_flight, first.running, first.waiting, first.kv) == (30, 30, 2, 1, 0.25)
    assert (second.tokens, second.in_flight, second.rows, second.running) == (80, 50, 2, 1)
    assert second.most_running == 4
    assert pace is not None
    assert (pace.seconds, pace.tokens, pace.slot_seconds) == (2.0, 50, 3.0)
    assert (pace.ended, pace.begun) == (((1, 30),), ((1, 50),))


def test_embeddings_count_by_their_input() -> None:
    gauge, found = told(Engine(InFlight(0, 0, []), InFlight(0, 0, [])))
    gauge.end_step(1.0, 0)
    for _ in range(3):
        gauge.add(SimpleNamespace(outputs=SimpleNamespace(data=[0.5]), prompt_token_ids=range(7)))
    gauge.end_step(2.0, 0)
    sample, pace = found[-1]
    assert (sample.tokens, sample.rows, sample.in_flight) == (21, 3, 0)
    assert pace is not None
    assert (pace.tokens, pace.ended) == (21, ())


def test_an_engine_in_another_process_tells_of_its_finished_rows() -> None:
    gauge, found = told(Engine(None, None))
    gauge.end_step(1.0, 3)
    gauge.add(output(5, 6))
    gauge.end_step(2.0, 2)
    sample, pace = found[-1]
    assert (sample.tokens, sample.running, sample.kv) == (11, 2, None)
    assert pace is not None
    assert (pace.ended, pace.begun) == ((), ())


def test_the_last_word_has_no_pace_and_other_ranks_say_nothing() -> None:
    gauge, found = told(Engine(InFlight(0, 0, [])))
    gauge.add(output(4))
    gauge.end(1.0, 0)
    assert [(sample.tokens, pace) for sample, pace in found] == [(4, None)]
    other = Gauge(cast("Any", Engine()), None)  # it would fail to look
    other.add(output(4))
    other.end_step(1.0, 1)
    other.end(2.0, 0)


@pytest.mark.parametrize(("seconds", "wide"), [(50, 50), (200, 60), (1000, 250), (9000, 600)])
def test_the_speed_is_that_of_the_last_minutes(seconds: int, wide: int) -> None:
    engine = Engine(*(InFlight(1, 0, [1]) for _ in range(seconds + 1)))
    gauge, found = told(engine)
    for second in range(1, seconds + 2):
        gauge.add(output(100 if second > seconds - wide else 7))
        gauge.end_step(float(second), 1)
    pace = found[-1][1]
    assert pace is not None
    assert pace.seconds == pytest.approx(wide, abs=1.5)
    assert pace.tokens == pytest.approx(100 * pace.seconds, rel=0.05)


def test_lengths_are_grouped_without_losing_tokens() -> None:
    lengths = Lengths()
    for length in range(1, 5001):
        lengths.add(length)
    groups = lengths.groups()
    assert sum(count for count, _ in groups) == 5000
    assert sum(tokens for _, tokens in groups) == 5000 * 5001 // 2
    assert len(groups) < 100


@pytest.mark.parametrize("fixed", [0.0, 0.3, 1.0])
def test_an_engine_that_empties_shows_what_a_step_costs(fixed: float) -> None:
    cost = StepCost(100)
    assert cost.fixed == 0.5
    for _ in range(50):
        cost.add(100.0, 1.0, 2000)
    assert cost.fixed == pytest.approx(0.5, abs=0.05)
    for running in range(100, 10, -3):
        step = 0.05 * (fixed + (1 - fixed) * running / 100)
        cost.add(float(running), 1.0, round(running / step))
    assert cost.fixed == pytest.approx(fixed, abs=0.1)


# -- what engines tell ---------------------------------------------------------------------------------------------
def test_a_rehearsal_tells_what_is_in_flight() -> None:
    engine = RehearsalEngine(record(max_num_seqs=3), Rehearsal(), FaultPlan.of(Rehearsal(), 0, None, True))  # type: ignore[arg-type]
    for index, length in enumerate((2, 5, 5, 5)):
        params = SimpleNamespace(n=1, max_tokens=length, embeds=False)
        engine.add_request(str(index), Ready({"index": index, "prompt": "p"}, 3, params))
    assert engine.look() == InFlight(0, 4, [])
    engine.step(lambda: None)
    assert engine.look() == InFlight(3, 1, [1, 1, 1])
    engine.step(lambda: None)
    assert engine.look() == InFlight(2, 1, [2, 2])
    engine.step(lambda: None)
    assert engine.look() == InFlight(3, 0, [3, 3, 1])


def test_vllms_scheduler_is_looked_at_if_it_is_as_we_know_it() -> None:
    requests = {str(count): SimpleNamespace(num_output_tokens=count) for count in (0, 5, 7)}
    scheduler = SimpleNamespace(requests=requests, running=[1, 2], kv_cache_manager=SimpleNamespace(usage=0.5))
    engine: Any = SimpleNamespace(engine_core=SimpleNamespace(engine_core=SimpleNamespace(scheduler=scheduler)))
    assert in_flight.look(engine) == InFlight(2, 1, [5, 7], 0.5)
    scheduler.kv_cache_manager = SimpleNamespace(usage="renamed")
    assert in_flight.look(engine) == InFlight(2, 1, [5, 7], None)
    scheduler.requests = {"1": SimpleNamespace()}
    assert in_flight.look(engine) is None
    assert in_flight.look(SimpleNamespace(engine_core=object())) is None


def test_without_a_driver_no_power_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.engine.health.watts.os.path.exists", lambda path: False)
    assert Watts().read() is None


def test_power_is_that_of_the_gpus_that_the_rank_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetCount=lambda: 8, nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetHandleByUUID=lambda name: 90, nvmlDeviceGetPowerUsage=lambda device: 1000 * (100 + device),
    )  # fmt: skip
    monkeypatch.setattr("vllm_hpc.engine.health.watts._import_nvml", lambda: nvml)
    monkeypatch.setattr("vllm_hpc.engine.health.watts.os.path.exists", lambda path: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 3")
    watts = Watts()
    assert watts.read() == 205.0
    nvml.nvmlDeviceGetPowerUsage = lambda device: 1 / 0
    assert (watts.read(), watts.read()) == (None, None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-1234")
    nvml.nvmlDeviceGetPowerUsage = lambda device: 1000 * device
    assert Watts().read() == 90.0


# -- what is written -----------------------------------------------------------------------------------------------
@needs_torch
def test_a_loop_leaves_samples_and_a_last_word(tmp_path: Path) -> None:
    folder = make_job(tmp_path)
    alone(folder).run()
    samples = read_samples(folder.samples(0, 1))
    assert (samples[-1].rows, samples[-1].tokens, samples[-1].running) == (60, 120, 0)
    assert samples[-1].most_running == MOST
    progress = counts(folder)
    assert progress.now == samples[-1]
    assert progress.pace is None


def test_a_writer_tells_the_newest_sample_once(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job", 5)
    writer = open_writer(folder)
    pace = Pace(seconds=1.0, tokens=5, slot_seconds=1.0)
    writer.note(Sample(at=10.0, tokens=5), pace)
    writer.close()
    assert counts(folder).now == Sample(at=10.0, tokens=5)
    assert counts(folder).pace == pace
    assert read_samples(folder.samples(0, 2)) == [Sample(at=10.0, tokens=5)]


def test_the_file_of_samples_stays_small(tmp_path: Path) -> None:
    """Three hours, a sample a second."""
    path, hours = tmp_path / "samples", 3
    file = SampleFile(path)
    for second in range(hours * 3600):
        file.add(Sample(at=1000.0 + second, tokens=second), is_last=False)
    file.add(Sample(at=1000.0 + hours * 3600, tokens=hours * 3600), is_last=True)
    samples = read_samples(path)
    assert 900 < len(samples) <= 2001
    assert samples[0].tokens == 0
    assert samples[-1].tokens == hours * 3600
    gaps = [after.at - before.at for before, after in pairwise(samples)]
    assert max(gaps) <= 8
    file.close()


def test_a_disk_that_was_full_for_a_while_costs_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "samples"
    file = SampleFile(path)
    file.add(Sample(at=1.0, tokens=1), is_last=False)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        write(descriptor, data[:5])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    file.add(Sample(at=2.0, tokens=2), is_last=False)
    monkeypatch.setattr(os, "write", write)
    file.add(Sample(at=3.0, tokens=3), is_last=False)
    lines = path.read_bytes().splitlines()
    assert [msgspec.json.decode(line)["tokens"] for line in (lines[0], lines[-1])] == [1, 3]
    assert len(lines) == 3


def test_a_planted_link_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / "samples").symlink_to(tmp_path / "other")
    SampleFile(tmp_path / "samples").add(Sample(at=1.0), is_last=False)
    assert (tmp_path / "other").read_text() == "precious"


def test_a_lost_folder_costs_the_samples_only(tmp_path: Path) -> None:
    file = SampleFile(tmp_path / "gone" / "samples")
    for second in range(3):
        file.add(Sample(at=float(second)), is_last=False)
