"""A large rehearsal on a real Slurm: what a person tries before a job of a night."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.real_jobs import ONE_CORE, submit_tiny, wait_for, worked
from tests.slurm.requeues import start_now
from vllm_hpc import Job
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.ranks, pytest.mark.full, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]

ROWS, REQUEUES, TASKS = 100_000, 3, 4
# Between two requeues, so that all of them come before the end.
ROWS_A_TURN = 2_000
# 20 s of generating, where the cores keep up with four replicas.
RATE = 5_000


def test_a_hundred_thousand_rows_with_three_requeues_come_out_once(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": f"row {number}"} for number in range(ROWS)]
    job = submit_tiny(
        None, tmp_path, rows, scheduler="slurm", dp=TASKS, tp=2, array=True, engine={}, env=ONE_CORE, max_tokens=4,
        max_requeues=REQUEUES, rehearse={"tokens_per_s": RATE},
    )  # fmt: skip
    for turn in range(REQUEUES):
        _writes_more(job, f"attempt {turn + 1} writes rows")
        subprocess.run(["scontrol", "requeue", str(job.job_id)], check=True)
        start_now(job)
        assert job.status().rows.done < ROWS, "rows are left for the next attempt"
    status = job.wait(600)
    assert (status.state, status.rows.done) == ("COMPLETED", ROWS), (status, job.logs()[-3000:])
    assert [row["index"] for row in job.results()] == list(range(ROWS))
    assert len(job.folder.attempts()) == TASKS * (REQUEUES + 1)
    print(f"{worked(job):.0f} s of work and restarts")


def _writes_more(job: Job, what: str) -> None:
    before = job.status().rows.done
    wait_for(lambda: job.status().rows.done > before + ROWS_A_TURN, what)
