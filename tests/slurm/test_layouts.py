"""Every way to lay a job over two nodes of a real Slurm: complete, in order, with the right answers."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import ONE_CORE, PROMPTS, check_complete, submit_tiny, wait_for
from vllm_hpc import Job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import SubmitError

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def submit(subject: Path | None, work: Path, **options: Any) -> Job:
    return submit_tiny(subject, work, scheduler="slurm", env=ONE_CORE, **options)


def nodes_of(job: Job) -> list[str]:
    return [rank.host for rank in job.ranks()]


LAYOUTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "TP=2 over two nodes": ({"nodes": 2, "tp": 2}, ["node1", "node2"]),
    "PP=2 over two nodes": ({"nodes": 2, "pp": 2, "launcher": "torchrun"}, ["node1", "node2"]),
    "DP=2, one a node": ({"nodes": 2, "dp": 2}, ["node1", "node2"]),
    "TP=2 on one node": ({"nodes": 1, "tp": 2}, ["node1", "node1"]),
    "srun, TP=2 over two": ({"nodes": 2, "tp": 2, "launcher": "srun"}, ["node1", "node2"]),
    "native, PP=2 over two": ({"nodes": 2, "pp": 2}, ["node1", "node2"]),
}
# The one that make test runs on vLLM. A rehearsal has no stages and no native launcher.
ALWAYS_ON_VLLM = "TP=2 over two nodes"
NEVER_REHEARSED = (ALWAYS_ON_VLLM, "PP=2 over two nodes", "native, PP=2 over two")
CASES = [
    pytest.param(False, *case, id=f"rehearsed-{name}", marks=pytest.mark.ranks)
    for name, case in LAYOUTS.items()
    if name not in NEVER_REHEARSED
] + [
    pytest.param(
        True, *case, id=f"vllm-{name}", marks=[pytest.mark.vllm, *[pytest.mark.full] * (name != ALWAYS_ON_VLLM)]
    )
    for name, case in LAYOUTS.items()
]


@pytest.mark.parametrize(("subject", "options", "nodes"), CASES, indirect=["subject"])
def test_layout(
    subject: Path | None, answers: list[str], tmp_path: Path, options: dict[str, Any], nodes: list[str]
) -> None:
    job = submit(subject, tmp_path, **options)
    check_complete(job, answers)
    assert nodes_of(job) == nodes
    # This Slurm's nodes have GPUs as far as the planner can tell, so PP gets native workers unless a launcher is named.
    assert job.folder.job().plan.is_native is ("pp" in options and "launcher" not in options)
    log = job.logs()
    for number, name in enumerate(dict.fromkeys(nodes)):
        assert f"vllm-hpc: {name} joined as node {number}" in log


def test_array_of_two(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    job = submit(subject, tmp_path, dp=2, array=True)
    check_complete(job, answers)
    assert len(job.folder.attempts()) == 2
    assert job.status().attempts == 1
    assert [job.folder.rank_log(rank).exists() for rank in (0, 1)] == [True, True]


@pytest.mark.parametrize("options", [{"nodes": 2, "tp": 2}, {"dp": 2, "array": True}], ids=["TP=2", "array of two"])
def test_a_job_whose_id_the_login_side_never_learned(
    subject: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Slurm takes the job, and its client does not come back: the job runs to its end all the same."""
    client = tmp_path / "bin" / "sbatch"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" > /dev/null\nexec sleep 60\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("vllm_hpc.schedulers.client.SUBMIT_TIMEOUT_S", 5)
    with pytest.raises(SubmitError, match="may or may not be submitted"):
        submit(subject, tmp_path, name="lost", **options)
    folder = JobFolder(tmp_path / "runs" / "lost")
    tasks = 2 if "array" in options else 1
    wait_for(lambda: len(list((folder.path / "state").glob("exit-*.json"))) == tasks, "the job has ended")
    exits = [folder.exit_of(attempt.attempt) for attempt in folder.attempts()]
    assert [(one.exit_code, one.cause) for one in exits if one] == [(0, "exit")] * tasks
    lines = [line for shard in folder.shard_files() for line in shard.read_text().splitlines()]
    assert len(lines) == len(PROMPTS)


def test_two_jobs_at_once_on_the_same_nodes(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    jobs = [submit(subject, tmp_path, nodes=2, tp=2, name=name) for name in ("first", "second")]
    for job in jobs:
        check_complete(job, answers)


def test_a_folder_that_directives_trip_over(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    work = tmp_path / "a b $HOME #1 é 'q' \"d\" 100%"
    work.mkdir()
    job = submit(subject, work, nodes=2, tp=2, name="naïve $(id) #2 50% job")
    check_complete(job, answers)
    assert "joined as node 1" in job.logs()  # the log is where #SBATCH --output said
    assert len(PROMPTS) == job.status().rows.done
