"""A job that 0.1 put into the queue begins when its vllm-hpc was replaced, and runs to its end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, ends_as
from tests.recorded import ROWS, old_metadata, replay
from vllm_hpc import Job
from vllm_hpc.jobfolder.records import Submitted, write_json

pytestmark = [pytest.mark.ranks, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def test_a_queued_job_of_before_runs_to_its_end(tmp_path: Path) -> None:
    script = replay("slurm", tmp_path)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(old_metadata(tmp_path)), os.environ.get("PYTHONPATH", "")]),
    }
    job_id = subprocess.check_output(["sbatch", "--parsable", str(script)], env=environment, text=True).strip()
    job = Job(script.parent)
    write_json(job.folder.submitted, Submitted("slurm", job_id, time.time()))
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert (status.rows.done, status.attempts) == (ROWS, 1)
    assert job.collect().rows["done"] == ROWS
