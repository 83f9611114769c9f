"""Lost submissions and lists of jobs on a real Slurm: jobs that are held, and start no rank."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import lay_out
from tests.real_jobs import wait_for
from vllm_hpc import Job, submit
from vllm_hpc.jobs.find import list_statuses
from vllm_hpc.schedulers.client import call_client
from vllm_hpc.spec.errors import FailedError, RequestError, SubmitError

pytestmark = [pytest.mark.slurm, pytest.mark.inputs, pytest.mark.usefixtures("slurm")]

Lose = Callable[[str], None]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit from, with a model that is never loaded."""
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def lose(work: Path, monkeypatch: pytest.MonkeyPatch) -> Lose:
    """From then on sbatch submits, or does not, and prints this instead of the id."""
    client = work / "bin" / "sbatch"
    client.parent.mkdir()
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")

    def replace(text: str) -> None:
        client.write_text(f"#!/bin/sh\n{text}\n")
        client.chmod(0o755)

    return replace


SBATCH = shutil.which("sbatch")


def hold(name: str, **options: Any) -> Job:
    return submit("model", sample=True, scheduler="slurm", name=name, directive=["--hold"], **options)


@pytest.mark.parametrize("options", [{}, {"dp": 3, "array": True}], ids=["a job", "an array"])
def test_a_job_whose_id_was_lost_is_found_and_cancelled(work: Path, lose: Lose, options: dict[str, Any]) -> None:
    lose(f'{SBATCH} "$@" > /dev/null; echo Welcome')
    with pytest.raises(SubmitError, match="printed no job id; its output was 'Welcome'"):
        hold("lost a|b", **options)
    job = Job(work / "runs" / "lost a|b")
    with pytest.raises(FailedError, match=r"slurm has the job, as \d+: wait for it, or cancel it") as refused:
        job.resume(not_submitted=True)
    job_id = re.findall(r"as (\d+):", str(refused.value))[0]
    with pytest.raises(RequestError, match=f"it has {job_id}: give that"):
        job.cancel(int(job_id) + 1)
    job.cancel(job_id)
    wait_for(lambda: job.status().state == "CANCELLED", "it is cancelled", 60)
    assert job.job_id == job_id
    lose(f'echo 2024; {SBATCH} "$@"; echo 12345 of 20000')
    assert job.resume() == 2
    assert job.status().state == "PENDING"
    job.cancel()


def test_a_job_that_was_never_submitted_is_submitted(work: Path, lose: Lose) -> None:
    lose("exit 0")
    with pytest.raises(SubmitError, match="printed no job id"):
        hold("never")
    job = Job(work / "runs" / "never")
    assert job.status().state == "UNKNOWN"
    lose(f'{SBATCH} "$@"')
    assert job.resume(not_submitted=True) == 2
    assert job.status().reason == f"waits: JobHeldUser: held: 'scontrol release {job.job_id}' lets it run"
    job.cancel()


def test_a_list_costs_one_call_or_two(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that wait, an array of which one task was cancelled, one that has just ended, one that Slurm never knew."""
    jobs = [hold(f"job-{number}") for number in range(3)] + [hold("array", dp=3, array=True)]
    subprocess.run(["scancel", f"{jobs[3].job_id}_1", str(jobs[0].job_id)], check=True)
    wait_for(lambda: jobs[0].status().state == "CANCELLED", "it is cancelled", 60)
    (jobs[0].path / "state" / "verdict-0.json").unlink()
    record = (jobs[1].path / "state" / "submitted.json").read_text()
    (jobs[1].path / "state" / "submitted.json").write_text(record.replace(str(jobs[1].job_id), "1"))
    asked: list[str] = []

    def ask(argv: list[str]) -> str:
        asked.append(argv[0])
        return call_client(argv)

    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", ask)
    found = {Path(status.job).name: status.state for status in list_statuses("runs")}
    assert found == {"job-0": "CANCELLED", "job-1": "UNKNOWN", "job-2": "PENDING", "array": "PENDING"}
    assert asked == ["squeue", "sacct"]
    subprocess.run(["scancel", *(str(job.job_id) for job in jobs[2:])], check=True)


def test_the_log_of_a_job_follows_the_umask(work: Path) -> None:
    """Recorded on slurm-wlm 22.05.8: sbatch hands its umask on."""
    script = work / "script.sh"
    script.write_text("#!/bin/bash\numask\n")
    log = work / "log"
    before = os.umask(0o002)
    try:
        subprocess.run(["sbatch", f"--output={log}", str(script)], check=True, capture_output=True)
    finally:
        os.umask(before)
    wait_for(lambda: log.exists() and log.read_text() == "0002\n", "it has run", 60)
    assert log.stat().st_mode & 0o777 == 0o664
