"""What happens to jobs on PBS: the right state, the real error, nothing left on the hosts, and how they go on.

In ``make test`` the jobs are rehearsals, in ``make test-full`` they run vLLM too: the fixture ``subject``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import real_jobs
from tests.real_jobs import LONG, ONE_CORE, PATIENCE_S, started, submit_long, wait_for
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.spec.errors import SubmitError

pytestmark = [pytest.mark.pbs, pytest.mark.usefixtures("pbs")]

LIMIT_S = 120
# A rehearsal is at its rows within ten seconds, where eight ranks share a core within thirty: its walltime is short.
REHEARSED_END, ON_VLLM_END = {"time": "1:00"}, {"time": "2"}
REHEARSED_DRAIN, ON_VLLM_DRAIN = {"time": "1:15", "drain_lead": 30}, {"time": "4", "drain_lead": 120}
ends_as = partial(real_jobs.ends_as, limit=LIMIT_S)


def submit(model: Path | None, work: Path, **options: Any) -> Job:
    return submit_long(model, work, **{"scheduler": "pbs", "nodes": 2, "tp": 2, "env": ONE_CORE, **options})


def start(model: Path | None, work: Path, **options: Any) -> Job:
    """A job over two hosts that has written its first rows."""
    return started(submit(model, work, **options))


def draining(model: Path | None) -> dict[str, Any]:
    """Options of a job that is at its rows for a while before it is drained."""
    return ON_VLLM_DRAIN if model else REHEARSED_DRAIN


def alone(subject: Path | None) -> dict[str, Any]:
    """One rank on one host: what a rehearsal needs where nothing of a test is about several. vLLM has two."""
    return {} if subject else {"nodes": 1, "tp": 1}


def qdel(job: Job) -> None:
    subprocess.run(["qdel", str(job.job_id)], check=True)


def family_of(job: Job, rank: int) -> list[psutil.Process]:
    """What of a job runs on the host of a rank: the rank, its torchrun, and the shell that started that."""
    process: psutil.Process | None = psutil.Process(job.ranks()[rank].pid)
    family = []
    while process is not None and process.name() != "pbs_mom" and process.uids().real == os.geteuid():
        if str(job.path) not in " ".join(process.cmdline()) and "VLLM_HPC_FOLDER" not in process.environ():
            break
        family.append(process)
        process = process.parent()
    assert len(family) >= 3, family
    return family


@pytest.mark.admins
@pytest.mark.parametrize(
    ("launcher", "line", "said"),
    [
        ("pbsdsh", "wrapper = ['nosuchwrapper']", "exec: nosuchwrapper: not found"),
        pytest.param(
            "pbs_tmrsh",
            "node_setup = ['exit 3']",
            "vllm-hpc: node_setup ended with exit code 3 on",
            marks=pytest.mark.full,
        ),
    ],
)
def test_the_reason_is_not_what_the_launcher_says_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str, line: str, said: str
) -> None:
    (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\n{line}\n")
    monkeypatch.chdir(tmp_path)
    assert said in ends_as(submit(None, tmp_path, profile="p", launcher=launcher), "FAILED").reason


def test_qdel_while_running(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    qdel(job)
    ends_as(job, "CANCELLED")
    assert job.collect().rows["done"] > 0


def test_cancel_while_running_and_resume(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path, **alone(subject))
    first = job.job_id
    job.cancel()
    done = ends_as(job, "CANCELLED").rows.done
    assert job.resume() == len(LONG) - done
    assert job.job_id != first
    wait_for(lambda: job.status().rows.done > done, "the resumed job writes rows")
    job.cancel()
    status = ends_as(job, "CANCELLED")
    assert status.attempts == 2
    assert job.collect().rows["done"] == status.rows.done


def test_pending_says_why_and_can_be_cancelled(subject: Path | None, tmp_path: Path) -> None:
    at = time.strftime("%Y%m%d%H%M", time.localtime(time.time() + 3600))
    job = submit(subject, tmp_path, directive=[f"-a {at}"])
    wait_for(lambda: "waits until" in job.status().reason, f"the reason is shown: {job.status()}", LIMIT_S)
    assert job.status().state == "PENDING"
    job.cancel()
    ends_as(job, "CANCELLED")
    other = submit(subject, tmp_path, directive=["-h"], name="held")
    wait_for(lambda: "held" in other.status().reason, "it waits", LIMIT_S)
    qdel(other)
    ends_as(other, "CANCELLED")


def test_more_hosts_than_there_are_waits_with_the_reason(subject: Path | None, tmp_path: Path, pbs: list[str]) -> None:
    many = len(pbs) + 1
    job = submit(subject, tmp_path, nodes=many, tp=1, dp=many)
    wait_for(
        lambda: "cannot start as requested" in job.status().reason, f"the reason is shown: {job.status()}", LIMIT_S
    )
    assert job.status().state == "PENDING"
    job.cancel()
    ends_as(job, "CANCELLED")


def test_an_array_is_cancelled_while_it_waits(subject: Path | None, tmp_path: Path) -> None:
    job = submit(subject, tmp_path, nodes=None, tp=1, dp=3, array=True, directive=["-h"])
    wait_for(lambda: job.status().state == "PENDING", "it waits", LIMIT_S)
    job.cancel()
    ends_as(job, "CANCELLED")


@pytest.mark.vllm
@pytest.mark.full
def test_a_worker_that_raises(tiny: Path, tmp_path: Path) -> None:
    job = submit(tiny, tmp_path, engine={"dtype": "float32", "max_num_batched_tokens": 1, "max_num_seqs": 64})
    status = ends_as(job, "FAILED", limit=300)
    assert "max_num_batched_tokens (1) must be greater than or equal to max_num_seqs (64)" in status.reason


@pytest.mark.ranks
def test_a_worker_that_runs_out_of_memory(tmp_path: Path) -> None:
    """The same of a rehearsal, whose engine has this one error."""
    status = ends_as(submit(None, tmp_path, rehearse={"fault": "oom", "fault_row": 0}), "FAILED")
    assert "OutOfMemoryError: rehearsed fault: out of memory" in status.reason


def test_sigkill_of_a_worker(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    rank = job.ranks()[1]
    os.kill(rank.pid, signal.SIGKILL)
    assert f"rank 1 on {rank.host} (pid {rank.pid}) vanished" in ends_as(job, "FAILED").reason


def test_sigkill_of_a_torchrun_agent(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    rank = job.ranks()[1]
    psutil.Process(rank.pid).parent().kill()  # type: ignore[union-attr]
    assert f"rank 1 on {rank.host}: LauncherLost" in ends_as(job, "FAILED").reason


def test_sigkill_of_all_that_runs_on_a_host(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    rank = job.ranks()[1]
    for process in reversed(family_of(job, 1)):
        process.kill()
    status = ends_as(job, "FAILED")
    assert f"rank 1 on {rank.host}" in status.reason
    assert status.rows.done > 0


def test_a_host_that_hangs_is_missed(subject: Path | None, tmp_path: Path) -> None:
    """To PBS such a job runs on; its ranks miss each other's heartbeats."""
    job = start(subject, tmp_path, env={**ONE_CORE, "VLLM_HPC_DEAD_S": "12"})
    family = family_of(job, 1)
    for process in family:
        process.suspend()
    try:
        status = job.wait(200)
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    assert status.state == "FAILED"
    assert "rank 1 has shown no sign of life for 12 s" in status.reason


def test_a_rank_that_dies_has_the_job_go_on(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path, max_requeues=3)
    first, done = job.job_id, job.status().rows.done
    os.kill(job.ranks()[1].pid, signal.SIGKILL)
    goes_on(job, str(first))
    wait_for(lambda: job.status().rows.done > done, "the next attempt writes rows")
    job.cancel()
    assert ends_as(job, "CANCELLED").attempts == 2


def test_the_walltime_is_over(subject: Path | None, tmp_path: Path) -> None:
    """A step that takes longer than the lead cannot be drained: PBS ends it, and what was written stays.

    torchrun gives ranks a session of their own, where PBS leaves them: they end by themselves, once they can.
    """
    job = start(subject, tmp_path, **(ON_VLLM_END if subject else REHEARSED_END), **alone(subject))
    ranks = [rank.pid for rank in job.ranks()]
    for pid in ranks:
        os.kill(pid, signal.SIGSTOP)
    try:
        status = job.wait(300)
    finally:
        for pid in ranks:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    assert status.state == "TIMEOUT"
    assert ends_as(job, "TIMEOUT").rows.done > 0
    assert job.collect().rows["done"] >= status.rows.done


def test_the_walltime_is_near_and_the_job_goes_on(subject: Path | None, tmp_path: Path) -> None:
    """Drained ahead of the walltime, submitted again by the script, and finished by another attempt."""
    job = submit(subject, tmp_path, **draining(subject), max_requeues=5, **alone(subject))
    first = str(job.job_id)
    wait_for(lambda: job.status().rows.done > 0, "rows are written")
    goes_on(job, first)
    assert "draining" in job.logs()
    done = job.status().rows.done
    wait_for(lambda: job.status().rows.done > done, "the next attempt writes rows")
    job.folder.drain.touch()
    status = ends_as(job, "PARTIAL", limit=200)
    assert status.attempts == 2
    assert "missing" in status.reason
    exits = [job.folder.exit_of(attempt) for attempt in (1, 2)]
    assert [(one.exit_code, one.cause) for one in exits if one] == [(0, "requeue"), (0, "exit")]


def test_an_array_goes_on_as_a_whole(subject: Path | None, tmp_path: Path) -> None:
    job = submit(subject, tmp_path, nodes=None, tp=1, dp=2, array=True, **draining(subject), max_requeues=5)
    first = str(job.job_id)
    wait_for(lambda: job.status().rows.done > 0, "rows are written")
    goes_on(job, first)
    wait_for(lambda: len(job.folder.attempts()) == 4, "both tasks have begun again")
    assert job.status().attempts == 2
    job.cancel()
    ends_as(job, "CANCELLED")


def goes_on(job: Job, first: str) -> None:
    """The job gets another id, and until then has not ended for anybody who looks."""
    deadline = time.monotonic() + PATIENCE_S
    while job.job_id == first:
        status = job.status()
        assert status.state in ("RUNNING", "PENDING"), (status, job.logs()[-3000:])
        assert time.monotonic() < deadline, "it does not go on"
        time.sleep(0.2)
    submitted = read_json(job.folder.submitted, Submitted)
    assert submitted is not None
    assert submitted.earlier == (first,)
    assert job.status().state in ("RUNNING", "PENDING")


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        ({"partition": "nowhere"}, "Unknown queue", "qstat -Q"),
        ({"directive": ["-l no_such_thing=3"]}, "Unknown resource", "gpu_request"),
        ({"directive": ["-l cput=never"]}, "Illegal attribute or resource value", "pbsnodes"),
        ({"directive": ["-y"]}, "invalid option", ""),
    ],
)
def test_a_refusal_has_pbs_words(
    subject: Path | None, tmp_path: Path, options: dict[str, Any], words: str, hint: str
) -> None:
    with pytest.raises(SubmitError) as refused:
        submit(subject, tmp_path, name="refused", **options)
    assert words in str(refused.value)
    assert hint in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "runs" / "refused").exists()
