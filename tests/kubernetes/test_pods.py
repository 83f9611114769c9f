"""The pods of a job run for real, as processes of this machine: attempts, restarts, ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.kubernetes.local_pods import Pods, profile_of
from tests.real_jobs import LONG, ONE_CORE, PATIENCE_S, PROMPTS, rehearsed_texts, submit_tiny
from vllm_hpc import Job
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.programs, pytest.mark.ranks]

Submit = Callable[..., tuple[Job, Pods]]


@pytest.fixture
def submit(tmp_path: Path, desk: Path, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Make a job for a cluster that is elsewhere, and its pods."""
    monkeypatch.setenv("KUBECONFIG", str(desk / "none"))
    for name, value in ONE_CORE.items():
        monkeypatch.setenv(name, value)

    def made(model: Path | None = None, rows: list[Row] = PROMPTS, api: str = "pytorchjob", **options: Any) -> Any:
        (desk / "vllm-hpc.toml").write_text(profile_of(Path(os.path.commonpath([tmp_path, model or tmp_path])), api))
        with pytest.warns(UserWarning, match="not submitted"):
            job = submit_tiny(model, tmp_path, rows, scheduler="kubernetes", profile="pods", **options)
        return job, Pods(job.folder.path)

    return made


def until(condition: Callable[[], object], limit_s: float = 60) -> None:
    end = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_two_pods_run_a_job_and_end_with_it(submit: Submit) -> None:
    job, pods = submit(nodes=2, tp=2)
    pods.start(1)
    pods.start(0)
    assert pods.watch(PATIENCE_S) == "Succeeded"
    assert sorted(pods.codes) == [(0, 0), (1, 0)]
    assert [row["text"] for row in job.results()] == rehearsed_texts(PROMPTS, 24)
    assert [(one.attempt, one.job_id) for one in job.folder.attempts()] == [(1, "default/job-x7k2p")]
    assert [rank.attempt for rank in job.ranks()] == [1, 1]
    ended = job.folder.exit_of(1)
    assert ended is not None
    assert (ended.exit_code, ended.cause) == (0, "exit")
    assert "joined as node 0" in job.folder.scheduler_log.read_text()
    assert "joined attempt 1 as node 1" in (job.folder.path / "logs" / "pod-1.out").read_text()
    again = pods.start(0)  # as a TrainJob's may be, after all
    assert (again.wait(20), len(job.folder.attempts())) == (0, 1)


@pytest.mark.full
def test_both_pods_are_started_again_after_a_rank_died(submit: Submit) -> None:
    fault = {"tokens_per_s": 500, "fault": "die", "fault_s": 1.0, "fault_rank": 1}
    job, pods = submit(rows=LONG[:100], nodes=2, tp=2, rehearse=fault)
    pods.start(0)
    pods.start(1)
    assert pods.watch(PATIENCE_S) == "Succeeded"
    assert sorted(pods.codes) == [(0, 0), (0, 200), (1, 0), (1, 200)]
    assert [one.attempt for one in job.folder.attempts()] == [1, 2]
    first = job.folder.exit_of(1)
    assert first is not None
    assert first.cause == "requeue"
    assert [row["text"] for row in job.results()] == rehearsed_texts(LONG[:100], 24)


@pytest.mark.full
@pytest.mark.parametrize("number", [0, 1])
def test_a_pod_that_is_killed_is_started_again_and_the_other_follows(submit: Submit, number: int) -> None:
    job, pods = submit(rows=LONG[:300], nodes=2, tp=2, rehearse={"tokens_per_s": 400})
    pods.start(0)
    pods.start(1)
    until(lambda: job.folder.joined(1, 1).exists() and any(job.folder.progress_of(range(1))))
    pods.signal(number, signal.SIGKILL)
    assert pods.watch(PATIENCE_S) == "Succeeded"
    assert [one.attempt for one in job.folder.attempts()] == [1, 2]
    assert (number, 137) in pods.codes
    assert [row["text"] for row in job.results()] == rehearsed_texts(LONG[:300], 24)


@pytest.mark.full
def test_a_pod_that_is_deleted_flushes_and_leaves_in_time(submit: Submit) -> None:
    job, pods = submit(rows=LONG, nodes=2, tp=2, rehearse={"tokens_per_s": 400})
    pods.start(0)
    pods.start(1)
    until(lambda: any(one.done for one in job.folder.progress_of(range(1))))
    began = time.monotonic()
    for number in (0, 1):
        pods.signal(number, signal.SIGTERM)
    until(lambda: all(one.poll() is not None for one in pods.running.values()))
    assert time.monotonic() - began < 25
    ended = job.folder.exit_of(1)
    assert ended is not None
    assert ended.cause == "TERM"
    assert not list(job.folder.path.glob("state/over-*"))  # it may be started again, where its node was emptied
    assert len(list(job.results(partial=True))) > 0


@pytest.mark.full
def test_without_requeues_the_job_fails_for_good(submit: Submit) -> None:
    fault = {"tokens_per_s": 500, "fault": "die", "fault_s": 1.0, "fault_rank": 1}
    job, pods = submit(rows=LONG[:100], nodes=2, tp=2, rehearse=fault, max_requeues=0)
    pods.start(0)
    pods.start(1)
    assert pods.watch(PATIENCE_S) == "Failed"
    assert (0, 1) in pods.codes
    assert [one.attempt for one in job.folder.attempts()] == [1]
    for number in (0, 1):
        assert pods.start(number).wait(20) == 1


@pytest.mark.full
def test_one_pod_of_a_trainjob_drains_before_its_time_is_over(submit: Submit) -> None:
    job, pods = submit(rows=LONG, api="trainjob", nodes=1, tp=1, rehearse={"tokens_per_s": 400}, time="0:30")
    pods.start(0)
    assert pods.watch(PATIENCE_S) == "Succeeded"
    said = job.folder.scheduler_log.read_text()
    assert "draining: the walltime will be over in" in said
    assert "the job's time is almost over: 'vllm-hpc resume' continues it" in said
    assert 0 < sum(one.done for one in job.folder.progress_of(range(1))) < len(LONG)
    assert len(job.folder.attempts()) == 1


@pytest.mark.full
@pytest.mark.vllm
@pytest.mark.parametrize("api", ["pytorchjob", "trainjob"])
def test_vllm_over_two_pods(submit: Submit, tiny: Path, monkeypatch: pytest.MonkeyPatch, api: str) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    job, pods = submit(tiny, api=api, nodes=2, tp=2)
    pods.start(0)
    pods.start(1)
    assert pods.watch(PATIENCE_S) == "Succeeded"
    assert len(list(job.results())) == len(PROMPTS)
    assert {rank.outcome for rank in job.ranks()} == {"ok"}
    assert not [row for row in job.results() if row.get("error")]
