"""Jobs that wait again on a real Slurm: see them do it, and cut short the two minutes that they would."""

from __future__ import annotations

import subprocess
import time

from tests.real_jobs import wait_for
from vllm_hpc import Job


def start_now(job: Job) -> None:
    """Let a requeued job, or all tasks of an array, start.

    Not in the second of its requeue: Slurm has revoked the job's credential for that, and would kill the new start. And
    not while it completes: its end would set the two minutes again.
    """
    wait_for(lambda: _youngest(job) >= 3, "the requeue is some seconds old")
    subprocess.run(["scontrol", "update", f"jobid={job.job_id}", "StartTime=now"], check=True)


def _youngest(job: Job) -> float:
    """Seconds since the last requeue of the job or a task; 0 while one does not wait yet."""
    argv = ["squeue", "--noheader", "--array", "--jobs", str(job.job_id), "--format=%T %V"]
    said = [line.split() for line in subprocess.check_output(argv, text=True).splitlines()]
    if any(state != "PENDING" for state, _ in said):
        return 0.0
    return time.time() - max(time.mktime(time.strptime(since, "%Y-%m-%dT%H:%M:%S")) for _, since in said)
