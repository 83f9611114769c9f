"""Jobs on a PBS as it is after its installation: without a history, and taking no jobs from compute nodes.

And on one that is down as a job is drained. Rehearsed, on the stand-in; all of it was run on OpenPBS 23.06.06 as well.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.pbs.test_failures import REHEARSED_DRAIN, ends_as, qdel
from tests.real_jobs import ONE_CORE, PATIENCE_S, started, submit_tiny, wait_for
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Again, CannotSubmit
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.inputs, pytest.mark.full, pytest.mark.ranks, pytest.mark.pbs]
# Two batches of rows: the first is drained, the second is the next attempt's.
ROWS: list[Row] = [{"id": str(number), "prompt": f"row {number}"} for number in range(500)]
PACE: dict[str, Any] = {"max_tokens": 200, "sampling": {"ignore_eos": True}, "rehearse": {"tokens_per_s": 1500}}


def submit(work: Path, **options: Any) -> Job:
    given = {"scheduler": "pbs", "tp": 1, "env": ONE_CORE, **PACE, **options}
    return submit_tiny(None, work, ROWS, **given)


def is_drained(job: Job) -> bool:
    return job.folder.drain_attempt(1).exists()


@pytest.mark.parametrize("history", [False, True], ids=["history off", "history on"])
def test_a_server_that_is_down_at_the_drain_is_asked_until_it_is_up(
    server: Path, tmp_path: Path, history: bool
) -> None:
    if not history:
        (server / "no-history").touch()
    job = submit(tmp_path, **REHEARSED_DRAIN, max_requeues=5)
    wait_for(lambda: is_drained(job), "it is drained")
    (server / "down").touch()
    wait_for(lambda: "not submitted again yet: qsub refused: Connection refused" in job.logs(), "it is asked again")
    again = read_json(job.folder.again, Again)
    assert again is not None
    assert "cannot connect to server" in again.reason
    (server / "down").unlink()
    status = ends_as(job, "COMPLETED", limit=PATIENCE_S)
    assert status.attempts >= 2  # on a busy machine the second may be drained, too
    assert job.logs().count("submitted again as") == status.attempts - 1


def test_a_server_that_stays_down_has_a_login_node_go_on(server: Path, tmp_path: Path) -> None:
    (server / "no-history").touch()
    job = submit(tmp_path, **REHEARSED_DRAIN, max_requeues=5)
    wait_for(lambda: is_drained(job), "it is drained")
    (server / "down").touch()
    assert job.status().state == "UNKNOWN"
    wait_for(lambda: "not submitted again from here" in job.logs(), "it has given up")
    (server / "down").unlink()
    status = ends_as(job, "COMPLETED", limit=PATIENCE_S)
    assert status.attempts >= 2  # on a busy machine the second may be drained, too


def test_a_node_that_may_not_submit_says_so_and_a_login_node_does(server: Path, tmp_path: Path) -> None:
    for name in ("no-history", "untrusted"):
        (server / name).touch()
    job = submit(tmp_path, **REHEARSED_DRAIN, max_requeues=5)
    wait_for(lambda: job.folder.cannot_submit.exists(), "it is known early")
    found = read_json(job.folder.cannot_submit, CannotSubmit)
    assert found is not None
    assert "Unauthorized Request" in found.reason
    assert "cannot submit the next attempt" in job.status().reason
    status = ends_as(job, "COMPLETED", limit=PATIENCE_S)
    assert status.attempts == 2
    assert "not submitted again from here: qsub refused: Bad UID for job execution" in job.logs()


def test_deleted_while_it_waits_it_is_cancelled(server: Path, tmp_path: Path) -> None:
    (server / "no-history").touch()
    job = submit(tmp_path, directive=["-h"])
    wait_for(lambda: "held" in job.status().reason, "it waits")
    qdel(job)
    assert job.status().state == "CANCELLED"


def test_a_script_that_is_killed_can_be_resumed(server: Path, tmp_path: Path) -> None:
    (server / "no-history").touch()
    job = started(submit(tmp_path, rehearse={"tokens_per_s": 5000}, max_requeues=3))
    done = job.status().rows.done
    script = next(
        one for one in psutil.process_iter() if one.name() == "bash" and f"{job.job_id}.SC" in " ".join(one.cmdline())
    )
    script.kill()
    status = job.wait(PATIENCE_S)
    assert status.state == "FAILED"
    assert "its script left no exit record" in status.reason
    assert job.resume() <= len(ROWS) - done
    ends_as(job, "COMPLETED", limit=PATIENCE_S)


def test_a_rank_that_is_stopped_is_gone_with_its_job(server: Path, tmp_path: Path) -> None:
    """torchrun has given it a session of its own: pbs_attach makes that the job's."""
    job = started(submit(tmp_path, rehearse={"tokens_per_s": 5000}, max_requeues=0))
    rank = job.ranks()[0].pid
    os.kill(rank, signal.SIGSTOP)
    subprocess.run(["qdel", str(job.job_id)], check=True)
    wait_for(lambda: not psutil.pid_exists(rank), "it is gone", 60)
    ends_as(job, "CANCELLED")
