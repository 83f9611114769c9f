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


@pytest.mark.full
def test_accounts_and_a_profile_that_the_cluster_takes(real: Path, slurm_with_accounting: None, run_cli: Cli) -> None:
    assert run_cli("profiles", "init", "here", "--project").code == 0
    assert "# your accounts (sacctmgr): open, root; " in (real / "vllm-hpc.toml").read_text()
    checked = run_cli("profiles", "check", "here")
    assert (checked.code, checked.err) == (0, ""), checked.out
    assert "ok    cluster     here: Slurm " in checked.out


def test_a_partition_that_is_gone_is_found(real: Path, slurm: None, run_cli: Cli) -> None:
    (real / "vllm-hpc.toml").write_text('[profiles.x]\nscheduler = "slurm"\npartition = "gone"\ngpus_per_node = 8\n')
    checked = run_cli("profiles", "check", "x")
    assert checked.code == 1
    assert "fail  cluster     x: queue gone: there is no partition 'gone' -> the cluster has debug" in checked.out
