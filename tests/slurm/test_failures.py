"""What happens to jobs on a real Slurm: the right state, the real error, and nothing left on the nodes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import real_jobs
from tests.real_jobs import LONG, ONE_CORE, started, submit_long, submit_tiny, wait_for
from tests.slurm.conftest import cluster, kill_controller
from tests.slurm.requeues import start_now
from vllm_hpc import Job
from vllm_hpc.spec.errors import SubmitError

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

LIMIT_S = 90
ends_as = partial(real_jobs.ends_as, limit=LIMIT_S)


def submit(subject: Path | None, work: Path, **options: Any) -> Job:
    return submit_long(subject, work, **{"scheduler": "slurm", "nodes": 2, "tp": 2, "env": ONE_CORE, **options})


def start(subject: Path | None, work: Path, **options: Any) -> Job:
    """A job over two nodes that has written its first rows."""
    return started(submit(subject, work, **options))


def alone(subject: Path | None) -> dict[str, Any]:
    """One rank on one node: what a rehearsal needs where nothing of a test is about several. vLLM has two."""
    return {} if subject else {"nodes": 1, "tp": 1}


def scancel(job: Job) -> None:
    subprocess.run(["scancel", str(job.job_id)], check=True)


def test_scancel_while_running(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    scancel(job)
    ends_as(job, "CANCELLED")
    assert job.collect().rows["done"] > 0


def test_cancel_while_running(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path, **alone(subject))
    job.cancel()
    ends_as(job, "CANCELLED")


def test_pending_says_why_and_can_be_cancelled(subject: Path | None, tmp_path: Path) -> None:
    job = submit(subject, tmp_path, directive=["--begin=now+1hour"])
    wait_for(lambda: "BeginTime" in job.status().reason, f"the reason is shown: {job.status()}", LIMIT_S)
    assert job.status().state == "PENDING"
    assert "expected to start 20" in job.status().reason
    job.cancel()
    ends_as(job, "CANCELLED")
    other = submit(subject, tmp_path, directive=["--hold"], name="held")
    wait_for(lambda: other.status().state == "PENDING", "it waits", LIMIT_S)
    scancel(other)
    ends_as(other, "CANCELLED")


def test_more_nodes_than_there_are_waits_with_the_reason(subject: Path | None, tmp_path: Path) -> None:
    """Slurm takes such a request, unless the site sets EnforcePartLimits: the reason must be seen."""
    job = submit(subject, tmp_path, nodes=3, dp=3)
    wait_for(lambda: "PartitionNodeLimit" in job.status().reason, f"the reason is shown: {job.status()}", LIMIT_S)
    assert job.status().state == "PENDING"
    job.cancel()
    ends_as(job, "CANCELLED")


@pytest.mark.ranks
def test_a_worker_that_raises(tmp_path: Path) -> None:
    job = submit(None, tmp_path, rehearse={"fault": "oom", "fault_row": 0})
    assert "OutOfMemoryError: rehearsed fault: out of memory" in ends_as(job, "FAILED").reason


@pytest.mark.vllm
@pytest.mark.full
def test_an_engine_argument_that_vllm_refuses(tiny: Path, tmp_path: Path) -> None:
    job = submit(tiny, tmp_path, engine={"dtype": "float32", "max_num_batched_tokens": 1, "max_num_seqs": 64})
    status = ends_as(job, "FAILED", limit=300)
    assert "max_num_batched_tokens (1) must be greater than or equal to max_num_seqs (64)" in status.reason


@pytest.mark.admins
@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("wrapper = ['nosuchwrapper']", "exec: nosuchwrapper: not found"),
        pytest.param("torchrun_options = ['--nosuch=3']", "unrecognized arguments: --nosuch=3", marks=pytest.mark.full),
        pytest.param("srun_options = ['--nosuch=3']", "srun: unrecognized option '--nosuch=3'", marks=pytest.mark.full),
        (
            "node_setup = ['if [ $node = 1 ]; then exit 3; fi; sleep 30']",
            f"the log ends with: vllm-hpc: node_setup ended with exit code 3 on {os.uname().nodename}",
        ),
    ],
)
def test_the_reason_is_not_what_srun_says_of_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, said: str
) -> None:
    (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\n{line}\n")
    monkeypatch.chdir(tmp_path)
    assert ends_as(submit(None, tmp_path, profile="p"), "FAILED").reason.endswith(said)


def test_sigkill_of_a_worker(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    victim = job.ranks()[1].pid
    os.kill(victim, signal.SIGKILL)
    assert f"rank 1 on node2 (pid {victim}) vanished" in ends_as(job, "FAILED").reason


def test_sigkill_of_a_torchrun_agent(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    psutil.Process(job.ranks()[1].pid).parent().kill()  # type: ignore[union-attr]
    assert "rank 1 on node2: LauncherLost" in ends_as(job, "FAILED").reason


def test_sigkill_of_a_step_daemon(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    agent = psutil.Process(job.ranks()[1].pid).parent()
    assert agent is not None
    daemon = agent.parent()
    assert daemon is not None
    assert daemon.name() == "slurmstepd"
    daemon.kill()
    assert "was killed" in ends_as(job, "FAILED").reason


def test_the_walltime_is_over(subject: Path | None, tmp_path: Path) -> None:
    """A step that takes longer than the lead cannot be drained: Slurm ends it, and what was written stays.

    Slurm looks every 30 s, and signals at the last look before the lead: with two minutes, 24 of them the lead, that is
    66 s after the start at the earliest, when rows have been written.
    """
    job = start(subject, tmp_path, time="2", **alone(subject))
    stopped = [rank.pid for rank in job.ranks()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    status = ends_as(job, "TIMEOUT", limit=260)
    assert status.rows.done > 0
    assert job.collect().rows["done"] >= status.rows.done


def test_the_walltime_is_near_and_the_job_goes_on(subject: Path | None, tmp_path: Path) -> None:
    """Drained ahead of the walltime, requeued by the script, and finished by another attempt."""
    # 50 s to load and to begin
    job = submit(subject, tmp_path, time="3", drain_lead=100, max_requeues=5, **alone(subject))
    wait_for(lambda: job.status().state == "PENDING" and job.status().attempts > 0 and _waits(job), "requeued", 200)
    assert job.status().rows.done > 0
    job.folder.drain.touch()
    start_now(job)
    status = ends_as(job, "PARTIAL", limit=200)
    assert status.attempts == 2
    assert "missing" in status.reason


def _waits(job: Job) -> bool:
    return job.folder.exit_of(1) is not None


def test_a_requeue_by_slurm_goes_on_and_resume_finishes(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path, max_requeues=1, **alone(subject))
    subprocess.run(["scontrol", "requeue", str(job.job_id)], check=True)
    wait_for(lambda: job.status().state == "PENDING", "it waits again")
    before = job.status().rows.done
    start_now(job)
    wait_for(lambda: job.status().rows.done > before, "the second attempt writes rows")
    job.cancel()
    ends_as(job, "CANCELLED")
    done = job.status().rows.done
    assert job.resume() == len(LONG) - done
    wait_for(lambda: job.status().rows.done > done, "the resumed job writes rows")
    job.cancel()
    status = ends_as(job, "CANCELLED")
    assert status.attempts == 3
    assert job.collect().rows["done"] == status.rows.done


def test_a_node_that_does_not_join_is_named(
    subject: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hang = tmp_path / "hang.sh"
    hang.write_text('if [ "${SLURM_NODEID:-}" = 1 ] && [ -n "${SLURM_STEP_ID:-}" ]; then sleep 1000; fi\n')
    monkeypatch.setenv("BASH_ENV", str(hang))  # sbatch hands the environment on
    job = submit(subject, tmp_path, env={**ONE_CORE, "VLLM_HPC_JOIN_TIMEOUT": "20"})
    assert ends_as(job, "FAILED", limit=150).reason.endswith("vllm-hpc: not joined within 20 s: node2")


def test_a_controller_that_is_down_is_unknown_and_then_known_again(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path, **alone(subject))
    kill_controller(str(job.job_id))
    killed, before = time.monotonic(), job.status().rows.done
    try:
        wait_for(lambda: job.status().state == "UNKNOWN", "the controller is missed", LIMIT_S)
        assert "squeue" in job.status().reason
        with pytest.raises(SubmitError):
            submit(subject, tmp_path, name="second")
        assert not (tmp_path / "runs" / "second").exists()
        wait_for(lambda: time.monotonic() - killed > 60 and job.status().rows.done > before, "the job goes on", 150)
    finally:
        cluster("daemon", "slurmctld")
    wait_for(lambda: job.status().state == "RUNNING", "the controller is back", LIMIT_S)
    job.cancel()
    ends_as(job, "CANCELLED")


def test_a_node_that_is_lost(subject: Path | None, tmp_path: Path) -> None:
    """The daemon of the second node is killed: Slurm notices after SlurmdTimeout (30 s here) and ends the job."""
    job = start(subject, tmp_path)
    pid = int(Path(os.environ["SLURM_CONF"]).with_name("slurmd.node2.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    try:
        status = ends_as(job, "FAILED", limit=240)
        assert "NODE_FAIL" in status.reason or "node2" in status.reason
    finally:
        cluster("daemon", "node2")
        wait_for(lambda: _idle_nodes() == 2, "the node is back", 120)


def _idle_nodes() -> int:
    return len(subprocess.check_output(["sinfo", "-hN", "-o", "%N", "-t", "idle"], text=True).split())


def test_a_job_that_slurm_has_forgotten_keeps_its_state(subject: Path | None, tmp_path: Path) -> None:
    job = submit(subject, tmp_path, directive=["--hold"])
    scancel(job)
    ends_as(job, "CANCELLED")
    was = f'"{job.job_id}"'
    for name in ("submitted.json", "verdict-0.json"):  # as if Slurm had forgotten the id
        file = job.path / "state" / name
        file.write_text(file.read_text().replace(was, '"4000000"'))
    assert job.status().state == "CANCELLED"


def test_a_job_inside_a_job_does_not_inherit_it(
    subject: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "77", "SLURM_MEM_PER_NODE": "1", "RANK": "5"}.items():
        monkeypatch.setenv(name, value)
    seen = tmp_path / "seen"
    site = tmp_path / "vllm-hpc.toml"
    site.write_text(f"[profiles.p]\nsetup = ['env > \"{seen}\"', 'exit 0']\n")
    monkeypatch.chdir(tmp_path)
    submit(subject, tmp_path, profile="p").wait(LIMIT_S)
    inherited = seen.read_text()
    assert "SLURM_NTASKS=77" not in inherited
    assert "SLURM_MEM_PER_NODE=1\n" not in inherited
    assert "RANK=5" not in inherited


def test_export_none(subject: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_LOGIN_VARIABLE", "leaks")
    seen = tmp_path / "seen"
    (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\nexport_environment = false\nsetup = ['env > \"{seen}\"']\n")
    monkeypatch.chdir(tmp_path)
    job = submit_tiny(subject, tmp_path, scheduler="slurm", nodes=1, profile="p", env=ONE_CORE)
    assert job.wait(300).state == "COMPLETED", job.logs()
    assert "A_LOGIN_VARIABLE" not in seen.read_text()


@pytest.mark.parametrize(
    ("options", "words", "hint"),
    [
        ({"partition": "nowhere"}, "invalid partition", "sinfo"),
        ({"nodes": 1, "dp": 16}, "node configuration is not available", "sinfo"),
        ({"mem": "900T"}, "memory", ""),
        ({"directive": ["--no-such-option"]}, "no-such-option", ""),
    ],
)
def test_a_refusal_has_slurms_words(
    subject: Path | None, tmp_path: Path, options: dict[str, Any], words: str, hint: str
) -> None:
    with pytest.raises(SubmitError) as refused:
        submit(subject, tmp_path, name="refused", **options)
    assert words in str(refused.value).lower()
    assert hint in str(refused.value)
    assert not (tmp_path / "runs" / "refused").exists()
