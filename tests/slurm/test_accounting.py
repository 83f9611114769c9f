"""With slurmdbd and MariaDB: what Slurm itself has forgotten, accounting still knows; a closed account is refused."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import ONE_CORE, check_complete, processes_of, submit_long, submit_tiny, wait_for
from vllm_hpc import Job
from vllm_hpc.schedulers.client import call_client
from vllm_hpc.schedulers.slurm import query
from vllm_hpc.schedulers.slurm.answers import parse_sacct
from vllm_hpc.spec.errors import SubmitError

# In one group, so that only one worker of pytest starts MariaDB, and once.
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.xdist_group("accounting"),
    pytest.mark.usefixtures("slurm_with_accounting"),
]


def test_the_database_is_this_clusters_own() -> None:
    assert Path(os.environ["SLURM_CONF"]).with_name("mysql").joinpath("mysqld.sock").is_socket()


def test_a_job_on_two_nodes(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    job = submit_tiny(subject, tmp_path, scheduler="slurm", nodes=2, tp=2, account="open", env=ONE_CORE)
    check_complete(job, answers)
    wait_for(lambda: _in_accounting(str(job.job_id)) == "completed", "accounting knows its end", 60)


def test_a_cancelled_job_is_cancelled_in_accounting_too(subject: Path | None, tmp_path: Path) -> None:
    job = submit_tiny(subject, tmp_path, scheduler="slurm", account="open", directive=["--hold"])
    subprocess.run(["scancel", str(job.job_id)], check=True)
    wait_for(lambda: job.status().state == "CANCELLED", "it is cancelled", 60)
    wait_for(lambda: _in_accounting(str(job.job_id)) == "cancelled", "accounting knows", 60)
    assert query(job.folder, str(job.job_id))[str(job.job_id)].phase == "cancelled"


def test_a_running_job_that_is_cancelled_leaves_nothing(subject: Path | None, tmp_path: Path) -> None:
    job = submit_long(subject, tmp_path, scheduler="slurm", account="open", nodes=2, tp=2, env=ONE_CORE)
    wait_for(lambda: job.status().rows.done > 0, "rows are written")
    subprocess.run(["scancel", str(job.job_id)], check=True)
    assert job.wait(90).state == "CANCELLED"
    wait_for(lambda: not processes_of(job), "no process is left", 90)
    wait_for(lambda: _in_accounting(str(job.job_id)) == "cancelled", "accounting knows", 60)


@pytest.mark.ranks
def test_a_worker_that_raises(tmp_path: Path) -> None:
    job = submit_long(
        None, tmp_path, scheduler="slurm", account="open", rehearse={"fault": "oom", "fault_row": 0}, nodes=2, tp=2,
        env=ONE_CORE,
    )  # fmt: skip
    _fails(job, "OutOfMemoryError: rehearsed fault: out of memory", 90)


@pytest.mark.vllm
@pytest.mark.full
def test_an_engine_argument_that_vllm_refuses(tiny: Path, tmp_path: Path) -> None:
    bad = {"dtype": "float32", "max_num_batched_tokens": 1, "max_num_seqs": 64}
    job = submit_tiny(tiny, tmp_path, scheduler="slurm", account="open", engine=bad, nodes=2, tp=2, env=ONE_CORE)
    _fails(job, "max_num_batched_tokens (1) must be greater than or equal to max_num_seqs (64)", 300)


def _fails(job: Job, words: str, limit: float) -> None:
    """With those words, with nothing left of it, and as accounting has it too."""
    status = job.wait(limit)
    assert status.state == "FAILED"
    assert words in status.reason
    wait_for(lambda: not processes_of(job), "no process is left", 90)
    wait_for(lambda: _in_accounting(str(job.job_id)) == "failed", "accounting knows", 60)


def test_a_closed_account_and_an_unknown_qos_are_refused(subject: Path | None, tmp_path: Path) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"account": "closed"}, "account"),
        ({"account": "open", "qos": "golden"}, "qos"),
    ]
    for options, words in asked:
        with pytest.raises(SubmitError) as refused:
            submit_tiny(subject, tmp_path, scheduler="slurm", name="refused", **options)
        assert f"invalid {words}" in str(refused.value).lower()
        assert "sacctmgr show" in str(refused.value)
        assert not (tmp_path / "runs" / "refused").exists()


def _in_accounting(job_id: str) -> str:
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={job_id}"]
    found = parse_sacct(call_client(argv)).get(job_id)
    return found.phase if found else "unknown"
