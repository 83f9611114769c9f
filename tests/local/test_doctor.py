"""doctor's job on this machine: two ranks, their all-reduce, and what the command prints."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.real_jobs import ends_as
from vllm_hpc import Job

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.full]


def test_this_machine(run_cli: Cli, desk: Path) -> None:
    found = run_cli(
        "doctor", "--on-nodes", "--scheduler", "local", "--gpus-per-node", "2", "--env", "OMP_NUM_THREADS=1"
    )
    assert found.code == 0, found
    checks = {line.split()[1]: line for line in found.out.splitlines()}
    assert "GB/s by gloo over 2 ranks" in checks["all-reduce"]
    assert "all ranks ran, and 2 rows are done" in checks["job"]
    (folder,) = (desk / "runs").iterdir()
    assert folder.name.startswith("doctor-")
    assert f"waits for the nodes: {folder}" in found.err


def test_an_interrupt_cancels_the_job(tmp_path: Path) -> None:
    words = ["--on-nodes", "--scheduler", "local", "--gpus-per-node", "2", "--job-dir", str(tmp_path / "runs")]
    argv = [sys.executable, "-P", "-m", "vllm_hpc", "doctor", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as doctor:
        assert doctor.stderr is not None
        assert doctor.stderr.readline().startswith("waits for the nodes:")
        doctor.send_signal(signal.SIGTERM)
        doctor.communicate(timeout=120)
    assert doctor.returncode == 128 + signal.SIGTERM
    (folder,) = (tmp_path / "runs").iterdir()
    ends_as(Job(folder), "CANCELLED", 60)
