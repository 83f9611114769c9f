"""doctor's job on this machine: two ranks, their all-reduce, and what the command prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Cli

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
