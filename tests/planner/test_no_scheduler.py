"""On a machine without a scheduler, what needs a cluster is planned and rendered as for Slurm, and not submitted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import vllm_hpc
from tests.conftest import Cli
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.tuning.tune import tune

pytestmark = pytest.mark.inputs
WORDS = "sbatch was not found, qsub was not found"
PLANNED = f"scheduler slurm: no scheduler on this machine ({WORDS}): planned for Slurm; --scheduler pbs for PBS"
HERE = f"scheduler local: {WORDS}"


@pytest.fixture(autouse=True)
def laptop(desk: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No sbatch and no qsub on PATH; nvidia-smi is that of the tests, and sees no GPU."""
    (desk / "bin" / "sbatch").unlink()
    which = shutil.which
    monkeypatch.setattr("shutil.which", lambda name: None if name in ("sbatch", "qsub") else which(name))


def plan(run_cli: Cli, *args: str) -> dict[str, Any]:
    outcome = run_cli("plan", "model", *args, "--json")
    assert (outcome.code, outcome.err) == (0, ""), outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


@pytest.mark.parametrize(
    "args",
    [
        ["--nodes", "2"], ["--nodes", "2", "--tp", "16"], ["--nodes", "2", "--gpus-per-node", "8", "--dp", "2"],
        ["--gpus-per-node", "8", "--tp", "16"], ["--gpus-per-node", "2", "--dp", "4"], ["--dp", "2", "--array"],
        ["--nodes", "2", "--gpu", "h100-80"], ["--launcher", "srun"], ["--nodes", "2", "--launcher", "native"],
        ["--nodes", "3", "--rehearse"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_several_nodes_are_planned_for_slurm(run_cli: Cli, args: list[str]) -> None:
    found = plan(run_cli, *args)
    assert PLANNED in found["reasons"]
    assert found["nodes"] == int(args[1]) if args[0] == "--nodes" else found["nodes"] in (1, 2)


@pytest.mark.parametrize(
    "args",
    [[], ["--nodes", "1"], ["--tp", "2"], ["--gpus-per-node", "4"], ["--launcher", "native"], ["--rehearse"],
     ["--nodes", "1", "--gpus-per-node", "8", "--tp", "8"]],
    ids=" ".join,
)  # fmt: skip
def test_one_node_stays_here(run_cli: Cli, args: list[str]) -> None:
    assert HERE in plan(run_cli, *args)["reasons"]


def test_its_memory_is_not_this_machines(run_cli: Cli) -> None:
    found = plan(run_cli, "--nodes", "2")
    assert found["fits"] is None
    assert any("the GPU is unknown" in reason for reason in found["reasons"])
    assert plan(run_cli, "--nodes", "2", "--gpu", "h100-80")["fits"] is True


def test_the_gpus_of_this_machine_are_no_limit(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine of two GPUs, 16 of them need several nodes, and nodes elsewhere may have more."""
    smi = "NVIDIA H100 80GB HBM3, 81559\n" * 2
    monkeypatch.setattr("vllm_hpc.planner.device.call_client", lambda *_: smi)
    assert PLANNED in plan(run_cli, "--tp", "16")["reasons"]
    assert plan(run_cli, "--nodes", "2", "--gpus-per-node", "8")["gpus_per_node"] == 8
    assert HERE in plan(run_cli, "--tp", "2")["reasons"]


@pytest.mark.parametrize("command", [["render"], ["submit", "--dry-run"]], ids=" ".join)
def test_the_script_is_that_of_slurm(run_cli: Cli, desk: Path, command: list[str]) -> None:
    outcome = run_cli(*command, "model", "--nodes", "2", "--tp", "16", "--name", "a")
    assert outcome.code == 0, outcome
    assert "#SBATCH --nodes=2" in outcome.out
    elsewhere = run_cli("render", "model", "--nodes", "2", "--tp", "16", "--name", "a", "--scheduler", "slurm")
    assert outcome.out == elsewhere.out
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    "args", [["--nodes", "2"], ["--array", "--dp", "2"], ["--launcher", "srun"], ["--gpus-per-node", "1", "--tp", "2"]]
)
def test_submit_refuses_and_makes_nothing(run_cli: Cli, desk: Path, args: list[str]) -> None:
    outcome = run_cli("submit", "model", *args)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"Error: the scheduler is local ({WORDS}), which has one node")
    assert "use --nodes 1, or --scheduler slurm or pbs" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (desk / "runs").exists()


def test_from_python_too(desk: Path) -> None:
    prepared = vllm_hpc.prepare("model", nodes=2)
    assert prepared.scheduler == "slurm"
    with pytest.raises(RequestError, match="the scheduler is local"):
        prepared.submit()
    with pytest.raises(RequestError, match="the scheduler is local"):
        vllm_hpc.submit("model", nodes=2, sample=True)
    with pytest.raises(RequestError, match="the scheduler is local"):
        tune("model", nodes=2)
    assert not (desk / "runs").exists()


def test_a_scheduler_that_is_named_is_kept(run_cli: Cli, desk: Path) -> None:
    assert "scheduler pbs: requested" in plan(run_cli, "--nodes", "2", "--scheduler", "pbs")["reasons"]
    refused = run_cli("plan", "model", "--nodes", "2", "--scheduler", "local")
    assert refused.code == 2
    assert "has one node, not 2" in refused.err
    (desk / "vllm-hpc.toml").write_text('[profiles.a]\nscheduler = "pbs"\n')
    assert "scheduler pbs: from profile 'a'" in plan(run_cli, "--nodes", "2", "--profile", "a")["reasons"]
