"""What is seen of a job that is watched: which replica is idle or slow, and whether it ends before its walltime."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from tests.crafted import make_job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.replica_status import ReplicaStatus
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.watch import Lines, Watcher

pytestmark = pytest.mark.notebooks


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time, which a test sets."""
    now = SimpleNamespace(at=1e9)
    fake = SimpleNamespace(time=lambda: now.at, monotonic=lambda: now.at)
    monkeypatch.setattr("vllm_hpc.jobs.watch.time", fake)
    return now


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    return make_job(tmp_path / "first", 1000)


def replica(number: int, tokens_per_s: float | None = 700.0, running: int | None = 100, **more: Any) -> ReplicaStatus:
    given = {"updated_at": 1e9, "most_running": 256, **more}
    return ReplicaStatus(replica=number, attempt=1, tokens_per_s=tokens_per_s, running=running, **given)


def running(folder: JobFolder, *replicas: ReplicaStatus, **more: Any) -> Status:
    given = {"rows": Rows(1_000_000, 5), "tokens": 10, **more}
    return Status(
        job=str(folder.path), job_id="77", scheduler="slurm", state="RUNNING", reason="generating",
        attempts=1, replicas=replicas, **given,
    )  # fmt: skip


def test_the_worst_replica_is_first(folder: JobFolder, clock: SimpleNamespace) -> None:
    those = [replica(0), replica(1, None), replica(2, 300.0), replica(3, 0.0, 0), replica(4, 650.0)]
    assert [one.replica for one in Watcher(folder).view(running(folder, *those)).replicas] == [3, 2, 4, 0, 1]


def test_a_replica_is_idle_if_that_lasts_and_there_are_rows_for_it(folder: JobFolder, clock: SimpleNamespace) -> None:
    watcher, status = Watcher(folder), running(folder, replica(0), replica(1, 0.0, 0))
    assert watcher.view(status).alarms == ()
    clock.at += 20
    assert watcher.view(status).alarms == ("replica 1 is idle, its GPUs have had nothing to do for 20 s",)
    # Another has taken all that are left.
    assert watcher.view(replace(status, rows=Rows(1_000_000, 999_800))).alarms == ()
    assert watcher.view(status).alarms == ()  # begins anew


def test_a_job_that_drains_may_have_idle_replicas(folder: JobFolder, clock: SimpleNamespace) -> None:
    watcher, status = Watcher(folder), running(folder, replica(0), replica(1, 100.0, 1), replica(2, 0.0, 0))
    watcher.view(status)
    folder.drain_attempt(1).touch()
    clock.at += 20
    assert watcher.view(status).alarms == ()


def test_stragglers_are_named_with_the_median(folder: JobFolder, clock: SimpleNamespace) -> None:
    view = Watcher(folder).view(running(folder, *map(replica, range(20)), *(replica(n, 300.0) for n in range(20, 40))))
    assert view.alarms == ()  # half of them are no exception
    slow = [replica(number, 100.0 + number) for number in range(20, 32)]
    view = Watcher(folder).view(running(folder, *map(replica, range(20)), *slow))
    assert view.alarms == (
        "replicas 20, 21, 22, 23, 24, 25, 26, 27 and 4 others are slow: 120 tokens/s, where the median is 700",
    )


def test_a_job_that_gets_no_further_is_told_of(folder: JobFolder, clock: SimpleNamespace) -> None:
    watcher, status = Watcher(folder), running(folder, replica(0), replica(1, updated_at=1e9 - 100))
    assert watcher.view(status).alarms == ("replica 1 has said nothing for 90 s and more",)
    clock.at += 95
    assert watcher.view(status).alarms == (
        "no new token and no new row for 95 s: vllm-hpc debug says who waits for whom",
    )
    assert watcher.view(replace(status, tokens=11)).alarms == ("replica 1 has said nothing for 90 s and more",)
    clock.at += 300
    assert watcher.view(replace(status, tokens=12)).alarms == ("no replica has said anything for 7 min",)


@pytest.mark.parametrize(
    ("eta_s", "attempts", "said"),
    [
        (600.0, 1, "fits the walltime with 50 min left"),
        (3599.0, 1, "fits the walltime with 1 s left"),
        (4320.0, 1, "ends 12 min after the walltime: it will be requeued"),
        (4320.0, 99, "ends 12 min after the walltime: 'vllm-hpc resume' runs the rest"),
        (None, 1, ""),
    ],
)
def test_the_end_is_compared_with_the_walltime(
    folder: JobFolder, clock: SimpleNamespace, eta_s: float | None, attempts: int, said: str
) -> None:
    status = running(folder, replica(0), eta_s=eta_s, ends_at=1e9 + 3600)
    assert Watcher(folder).view(replace(status, attempts=attempts)).fit == said
    assert Watcher(folder).view(replace(status, ends_at=None)).fit == ""
    assert Watcher(folder).view(replace(status, state="PENDING")).fit == ""


def test_a_pipe_gets_a_line_for_what_is_new(folder: JobFolder, clock: SimpleNamespace) -> None:
    lines, watcher = Lines(), Watcher(folder)
    pending = replace(running(folder), state="PENDING", reason="Priority, expected to start 10:00", rows=Rows(1000))
    assert lines.new(watcher.view(pending)) == ["PENDING: Priority, expected to start 10:00"]
    assert lines.new(watcher.view(replace(pending, reason="Priority, expected to start 10:01"))) == []
    status = running(folder, replica(0), replica(1, 0.0, 0), rows=Rows(1000, 0), tokens_per_s=700.04, eta_s=107.4)
    assert lines.new(watcher.view(status)) == ["RUNNING: generating"]
    clock.at += 59
    warning = "Warning: replica 1 is idle, its GPUs have had nothing to do for 59 s"
    assert lines.new(watcher.view(replace(status, rows=Rows(1000, 1)))) == [warning]
    clock.at += 2
    assert lines.new(watcher.view(replace(status, rows=Rows(1000, 2)))) == [
        "2 of 1,000 rows, 700 tokens/s, 107 s to go"
    ]
    assert lines.new(watcher.view(replace(status, rows=Rows(1000, 3)))) == []
    assert lines.new(watcher.view(replace(status, state="FAILED"))) == []


def test_a_line_is_one_line_whatever_a_scheduler_says(folder: JobFolder) -> None:
    status = replace(running(folder), reason="a\nb\x1b]52;c;x\x07" + "c" * 10_000)
    (line,) = Lines().new(Watcher(folder).view(status))
    assert line.startswith("RUNNING: a b\ufffd]52;c;x\ufffdccc")
    assert len(line) == 400


def test_a_thousand_replicas_cost_next_to_nothing(folder: JobFolder) -> None:
    status = running(folder, *(replica(number, float(number)) for number in range(1000)))
    watcher = Watcher(folder)
    began = time.process_time()
    for _ in itertools.repeat(None, 10):
        view = watcher.view(status)
    assert time.process_time() - began < 1.0
    assert len(view.alarms) == 2
