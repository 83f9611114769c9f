"""`profiles init` asks the real Slurm, with and without accounting; its profile submits a job there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = [pytest.mark.slurm, pytest.mark.admins]
TOLD = {
    "scheduler": "slurm",
    "gpus_per_node": 8,
    "cpus_per_node": 8,
    "mem_per_node": "20000M",
    "queues": {"debug": {"max_nodes": 2, "max_time": "02:00:00"}},
}


@pytest.fixture
def real(desk: Path) -> Path:
    """The desk, without its fake sbatch."""
    (desk / "bin" / "sbatch").unlink()
    return desk


def test_it_asks_a_real_slurm(real: Path, slurm: None, run_cli: Cli) -> None:
    printed = run_cli("profiles", "init")
    assert (printed.code, printed.err) == (0, "")
    assert tomllib.loads(printed.out)["profiles"]["vllmhpc"] == TOLD
