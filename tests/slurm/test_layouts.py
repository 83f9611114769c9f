"""Every way to lay a job over two nodes of a real Slurm: complete, in order, equal to plain vLLM."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import ONE_CORE, PROMPTS, check_complete, submit_tiny, wait_for
from vllm_hpc import Job
from vllm_hpc.errors import SubmitError
from vllm_hpc.jobfolder import JobFolder

pytestmark = [pytest.mark.vllm, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def submit(tiny: Path, work: Path, **options: Any) -> Job:
    return submit_tiny(tiny, work, scheduler="slurm", env=ONE_CORE, **options)


def nodes_of(job: Job) -> list[str]:
    return [rank.host for rank in job.ranks()]


@pytest.mark.parametrize(
    ("options", "nodes"),
    [
        ({"nodes": 2, "tp": 2}, ["node1", "node2"]),
        ({"nodes": 2, "pp": 2}, ["node1", "node2"]),
        ({"nodes": 2, "dp": 2}, ["node1", "node2"]),
        ({"nodes": 1, "tp": 2}, ["node1", "node1"]),
        ({"nodes": 2, "tp": 2, "launcher": "srun"}, ["node1", "node2"]),
        ({"nodes": 2, "pp": 2, "launcher": "native"}, ["node1", "node2"]),
    ],
    ids=[
        "TP=2 over two nodes", "PP=2 over two nodes", "DP=2, one a node", "TP=2 on one node", "srun, TP=2 over two",
        "native, PP=2 over two",
    ],
)  # fmt: skip
def test_layout(tiny: Path, reference: list[str], tmp_path: Path, options: dict[str, Any], nodes: list[str]) -> None:
    job = submit(tiny, tmp_path, **options)
    check_complete(job, reference)
    assert nodes_of(job) == nodes
    log = job.logs()
    for number, name in enumerate(dict.fromkeys(nodes)):
        assert f"vllm-hpc: {name} joined as node {number}" in log


def test_array_of_two(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    job = submit(tiny, tmp_path, dp=2, array=True)
    check_complete(job, reference)
    assert len(job.folder.attempts()) == 2
    assert job.status().attempts == 1
    assert [job.folder.rank_log(rank).exists() for rank in (0, 1)] == [True, True]


@pytest.mark.parametrize("options", [{"nodes": 2, "tp": 2}, {"dp": 2, "array": True}], ids=["TP=2", "array of two"])
def test_a_job_whose_id_the_login_side_never_learned(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """Slurm takes the job, and its client does not come back: the job runs to its end all the same."""
    client = tmp_path / "bin" / "sbatch"
    client.parent.mkdir()
    client.write_text(f'#!/bin/sh\n{shutil.which("sbatch")} "$@" > /dev/null\nexec sleep 60\n')
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    monkeypatch.setattr("vllm_hpc.schedulers.SUBMIT_TIMEOUT_S", 5)
    with pytest.raises(SubmitError, match="may be submitted or not"):
        submit(tiny, tmp_path, name="lost", **options)
    folder = JobFolder(tmp_path / "runs" / "lost")
    tasks = 2 if "array" in options else 1
    wait_for(lambda: len(list((folder.path / "state").glob("exit-*.json"))) == tasks, "the job has ended")
    exits = [folder.exit_of(attempt.attempt) for attempt in folder.attempts()]
    assert [(one.exit_code, one.cause) for one in exits if one] == [(0, "exit")] * tasks
    lines = [line for shard in folder.shard_files() for line in shard.read_text().splitlines()]
    assert len(lines) == len(PROMPTS)


def test_two_jobs_at_once_on_the_same_nodes(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    jobs = [submit(tiny, tmp_path, nodes=2, tp=2, name=name) for name in ("first", "second")]
    for job in jobs:
        check_complete(job, reference)


def test_a_folder_that_directives_trip_over(tiny: Path, reference: list[str], tmp_path: Path) -> None:
    work = tmp_path / "a b $HOME #1 é 'q' \"d\" 100%"
    work.mkdir()
    job = submit(tiny, work, nodes=2, tp=2, name="naïve $(id) #2 50% job")
    check_complete(job, reference)
    assert "joined as node 1" in job.logs()  # the log is where #SBATCH --output said
    assert len(PROMPTS) == job.status().rows.done
