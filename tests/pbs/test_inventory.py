"""`profiles init` asks PBS, and `profiles check` finds what it wrote there."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = [pytest.mark.pbs, pytest.mark.admins]


def test_it_asks_pbs_and_checks_what_it_wrote(desk: Path, pbs: list[str], run_cli: Cli) -> None:
    wrote = run_cli("profiles", "init", "here", "--scheduler", "pbs", "--project")
    assert (wrote.code, wrote.err) == (0, "")
    profile = tomllib.loads((desk / "vllm-hpc.toml").read_text())["profiles"]["here"]
    assert profile["scheduler"] == "pbs"
    assert profile["gpu_request"] in ("select", "queue")
    assert all(queue["max_nodes"] <= len(pbs) for queue in profile["queues"].values())
    checked = run_cli("profiles", "check", "here")
    assert checked.code == 0, checked.out
    assert "ok    cluster     here: PBS" in checked.out
    assert "ok    script" in checked.out


def test_a_queue_that_is_gone_is_found(desk: Path, pbs: list[str], run_cli: Cli) -> None:
    text = '[profiles.x]\nscheduler = "pbs"\ngpus_per_node = 4\n[profiles.x.queues.gone]\n'
    (desk / "vllm-hpc.toml").write_text(text)
    checked = run_cli("profiles", "check", "x")
    assert checked.code == 1
    assert "fail  cluster     x: queue gone: there is no partition 'gone' -> the cluster has " in checked.out


def test_a_server_that_is_down_is_said(desk: Path, server: Path, run_cli: Cli) -> None:
    (server / "down").touch()
    failed = run_cli("profiles", "init", "--scheduler", "pbs")
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("Error: qstat refused: ") and failed.err.count("\n") == 1
