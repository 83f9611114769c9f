"""What a plan says of --verify and --reproducible, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import Cli
from vllm_hpc.planner.determinism import explain_determinism
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.program import FoundProgram, Program
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.programs

ON_GPUS = ("--gpu", "h100-80", "--scheduler", "slurm", "--nodes", "1", "--gpus-per-node", "4")


@pytest.mark.parametrize("steps", [1, 16])
def test_a_plan_says_what_ranks_compare(model: Path, run_cli: Cli, steps: int) -> None:
    outcome = run_cli("plan", "model", *ON_GPUS, "--tp", "4", "--verify", str(steps), "--json")
    every = "each step" if steps == 1 else "each 16 steps"
    assert f"--verify: {every}, the ranks of a replica compare every token that they sampled" in outcome.out
    assert "--verify" not in run_cli("plan", "model", *ON_GPUS, "--tp", "4").out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--tp", "1", "--verify", "4"],
            "--verify compares the ranks of a replica, and these have one each: use --tp 2",
        ),
        (
            ["--tp", "2", "--launcher", "native", "--verify", "4"],
            "with --launcher native one does for all: leave one out",
        ),
        (["--tp", "2", "--verify", "0"], "'--verify': 0 is not in the range x>=1"),
        (["--tp", "2", "--verify", "x"], "'--verify': 'x' is not a valid integer range"),
        (["--tp", "2", "--verify", "1000001"], "--verify must be a whole number from 1 to 1000000"),
        (["--tp", "2", "--launcher", "native", "--reproducible"], "with --launcher native vLLM starts its own workers"),
        (
            ["--reproducible", "--env", "VLLM_BATCH_INVARIANT=0"],
            "VLLM_BATCH_INVARIANT=0 is not what --reproducible sets",
        ),
    ],
)
def test_what_would_do_nothing_is_refused(model: Path, run_cli: Cli, options: list[str], said: str) -> None:
    outcome = run_cli("plan", "model", *ON_GPUS, *options)
    assert (outcome.code, outcome.out) == (2, "")
    assert said in outcome.err


def test_a_plan_says_what_reproducible_promises_and_what_not(model: Path, run_cli: Cli) -> None:
    out = run_cli("plan", "model", *ON_GPUS, "--reproducible", "--env", "VLLM_BATCH_INVARIANT=1", "--json").out
    assert "the same tokens for any max_num_seqs, --tp up to 8, and after a resume" in out
    assert (
        "a rehearsal's answers depend on nothing but their row" in run_cli("plan", "--rehearse", "--reproducible").out
    )


def test_there_is_no_such_mode_on_the_cpu(model: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "model", "--scheduler", "local", "--reproducible")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: --reproducible needs GPUs, for vLLM has no batch-invariant mode on the CPU")


@pytest.mark.parametrize("value", ["1", '"yes"', "[]"])
def test_switches_of_a_job_definition_are_checked(desk: Path, model: Path, run_cli: Cli, value: str) -> None:
    for key in ("reproducible", "debug_ranks"):
        (desk / "job.toml").write_text(f'model = "model"\n{key} = {value}\n')
        outcome = run_cli("plan", ".")
        assert outcome.code == 2
        assert f"--{key.replace('_', '-')} must be true or false" in outcome.err


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"verify": 4}, "file", "this program drives the engine: leave it out"),
        ({"reproducible": True}, "script", "with --script, use --env VLLM_BATCH_INVARIANT=1"),
    ],
)
def test_a_program_that_drives_the_engine_is_refused_what_the_loop_does(options: Any, kind: Any, said: str) -> None:
    program = FoundProgram(Program(kind=kind, name="x", source="/x.py", drives_engine=True))
    job: Any = SimpleNamespace(request=Request(model="model", **options), program=program)
    plan: Any = SimpleNamespace(layout=SimpleNamespace(replica_size=2))
    with pytest.raises(RequestError, match=said):
        explain_determinism(job, plan)
