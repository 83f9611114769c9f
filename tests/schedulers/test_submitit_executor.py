"""What lies in the folder when the scheduler hears of a job, and how ranks find it whose id nobody told anyone."""

from __future__ import annotations

import pickle
import re
import sys
from importlib.metadata import EntryPoint, EntryPoints, PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from submitit.core.submission import process_job

from tests.crafted import make_job
from tests.recorded import replay
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import EarlierJobFolder
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.submit import submit
from vllm_hpc.schedulers.submitit_environment import VllmHpcJobEnvironment
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


def test_a_checkout_that_has_changed_since_it_was_installed_submits_nothing(
    desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a git pull: torchrun would not know its backend."""
    earlier = EntryPoint(
        "job_environment", "vllm_hpc.schedulers.submitit_environment:VllmHpcJobEnvironment", "submitit"
    )
    stub = SimpleNamespace(entry_points=EntryPoints([earlier]))
    monkeypatch.setattr("vllm_hpc.schedulers.submitit_executor.distribution", lambda name: stub)
    with pytest.raises(
        RefusedError, match=r"has changed since it was installed in .*: install it with '.*pip install -e"
    ):
        submit(str(model), scheduler="slurm", job_dir="runs")
    assert not (desk / "runs").exists()


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
def test_a_rank_of_0_1_runs_its_task_and_loads_no_pickle_of_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, job_id: str
) -> None:
    """Its script starts submitit on ranks/, where anybody may have put another pickle in the place of either."""
    script = replay("local", tmp_path)
    planted = Path(tmp_path / "planted")
    pickled = f"cos\nsystem\n(S'touch {planted}'\ntR.".encode()
    ranks = script.parent / "ranks"
    for name in ("task.pkl", f"{job_id}_submitted.pkl"):
        (ranks / name).write_bytes(pickled)
        pickle.loads((ranks / name).read_bytes())
        planted.unlink()
    ran: list[tuple[str, type[JobFolder]]] = []
    monkeypatch.setattr("vllm_hpc.engine.rank.run", lambda *given: ran.append(given))
    for name, value in {"SUBMITIT_EXECUTOR": "vllmhpc", "VLLM_HPC_JOB_ID": job_id, "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SUBMITIT_FOLDER", "")
    monkeypatch.setattr(VllmHpcJobEnvironment, "private", None)
    process_job(ranks)
    assert ran == [(str(script.parent), EarlierJobFolder)]
    assert not planted.exists()
    assert sorted(one.name for one in ranks.iterdir()) == sorted(["task.pkl", f"{job_id}_submitted.pkl"])
