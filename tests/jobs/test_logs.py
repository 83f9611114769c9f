"""Job.logs gives a log, and of one that would not fit into memory its end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.crafted import make_job
from vllm_hpc.jobs.job import Job
from vllm_hpc.spec.read_file import MOST_BYTES

pytestmark = pytest.mark.trust


def test_of_a_log_of_a_terabyte_the_end_is_given(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job")
    folder.scheduler_log.parent.mkdir(exist_ok=True)
    folder.scheduler_log.write_text("é\nb\n")
    job = Job(folder.path)
    assert job.logs() == "é\nb\n"
    with folder.scheduler_log.open("ab") as log:
        os.truncate(log.fileno(), 1 << 40)
        log.write(b"\nthe end\n")
    found = job.logs()
    left_out = (1 << 40) + len("\nthe end\n") - MOST_BYTES
    assert found.startswith(f"[vllm-hpc: {left_out:,} bytes before this are left out: '{folder.scheduler_log}' has all")
    assert found.endswith("\nthe end\n")
    assert len(found) < MOST_BYTES + 500
