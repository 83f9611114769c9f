"""What lies in the folder when the scheduler hears of a job, and how ranks find it whose id nobody told anyone."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import msgspec
import pytest
from submitit.core.utils import DelayedSubmission

from tests.crafted import make_job
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.submit import submit
from vllm_hpc.schedulers.submitit_environment import TASK_PICKLE
from vllm_hpc.schedulers.submitit_executor import RankTask
from vllm_hpc.spec.errors import RefusedError, SubmitError

ROOT = Path(__file__).parents[2]


def test_what_the_ranks_run_is_there_before_the_scheduler_hears_of_the_job(desk: Path, model: Path) -> None:
    """An sbatch that took the job and hangs, or a login node that dies: the job may start, and must find its task."""
    (desk / "bin" / "sbatch").write_text('#!/bin/sh\nfor s; do :; done\nls "$(dirname "$s")/ranks" >&2; exit 1\n')
    with pytest.raises(SubmitError, match=r"refused: task\.json$"):
        submit(str(model), scheduler="slurm", job_dir="runs")


def test_a_checkout_that_is_not_installed_submits_nothing(
    desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No rank would find its environment, and the job's supervisor not even the package."""

    def not_there(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr("vllm_hpc.schedulers.submitit_executor.distribution", not_there)
    with pytest.raises(RefusedError, match=r"not installed in .*: install it with '.*python.* -m pip install -e /.*'$"):
        submit(str(model), scheduler="slurm", job_dir="runs")
    with pytest.raises(RefusedError, match=f"pip install -e {re.escape(str(ROOT))}'$"):
        submit(str(model), scheduler="slurm", job_dir="runs")
    assert not (desk / "runs").exists()
    assert not (desk / "bin" / "received").exists()
    with pytest.raises(RefusedError, match="not installed"):
        resume(make_job(desk / "runs" / "earlier"))


def test_a_supervisor_that_does_not_start_says_why(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of the job's folder then, nor of its log."""
    python = desk / "python"
    python.write_text(
        f'#!/bin/sh\nif [ "$4" = start ]; then exec {sys.executable} -c "import sys; sys.executable = \'$0\'; '
        "from vllm_hpc.schedulers.local.supervisor import start; from pathlib import Path; "
        "print(start(Path('$5')))\"; fi\n"
        "echo 'No module named vllm_hpc' >&2; exit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with pytest.raises(SubmitError, match=r"the supervisor did not start: No module named vllm_hpc$"):
        submit(str(model), scheduler="local", job_dir="runs", gpus_per_node=1)
    assert not list((desk / "runs").glob("*"))


def test_a_submit_that_timed_out_leaves_all_that_the_job_needs(
    desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (desk / "bin" / "sbatch").write_text("#!/bin/sh\nexec sleep 30\n")
    monkeypatch.setattr("vllm_hpc.schedulers.client.SUBMIT_TIMEOUT_S", 0.5)
    with pytest.raises(SubmitError, match="may or may not be submitted"):
        submit(str(model), scheduler="slurm", job_dir="runs", name="lost")
    task = msgspec.json.decode((desk / "runs" / "lost" / "ranks" / "task.json").read_bytes(), type=RankTask)
    assert task == RankTask(str(desk / "runs" / "lost"))


@pytest.mark.parametrize("job_id", ["4711", "4711_3"], ids=["a job", "a task of an array"])
def test_ranks_of_0_1_that_start_at_once_all_find_the_task(tmp_path: Path, job_id: str) -> None:
    DelayedSubmission(os.getenv, "RANK").dump(tmp_path / TASK_PICKLE)
    environment = {**os.environ, "SUBMITIT_EXECUTOR": "vllmhpc", "VLLM_HPC_JOB_ID": job_id, "WORLD_SIZE": "4"}
    command = [sys.executable, "-m", "submitit.core._submit", str(tmp_path)]
    ranks = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.DEVNULL)
        for rank in range(4)
    ]
    assert [rank.wait(50) for rank in ranks] == [0] * 4
    results = [pickle.loads((tmp_path / f"{job_id}_{rank}_result.pkl").read_bytes()) for rank in range(4)]
    assert results == [("success", str(rank)) for rank in range(4)]
    assert (tmp_path / f"{job_id}_submitted.pkl").samefile(tmp_path / TASK_PICKLE)


def test_a_rank_of_0_1_killed_as_it_wrote_its_result_does_not_fail_the_next(tmp_path: Path) -> None:
    DelayedSubmission(os.getenv, "RANK").dump(tmp_path / TASK_PICKLE)
    (tmp_path / "4711_0_result.pkl.save_tmp").write_bytes(b"half a pick")
    environment = {**os.environ, "SUBMITIT_EXECUTOR": "vllmhpc", "VLLM_HPC_JOB_ID": "4711", "RANK": "0"}
    command = [sys.executable, "-m", "submitit.core._submit", str(tmp_path)]
    subprocess.run(command, env={**environment, "WORLD_SIZE": "1"}, check=True, stderr=subprocess.DEVNULL)
    assert pickle.loads((tmp_path / "4711_0_result.pkl").read_bytes()) == ("success", "0")
    assert not (tmp_path / "4711_0_result.pkl.save_tmp").exists()
