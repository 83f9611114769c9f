"""Which plans with PP get vLLM's own workers (native), and what they say of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.plan import Plan

PROFILE = '[profiles.p]\nscheduler = "slurm"\n'
TWO: dict[str, Any] = {"scheduler": "slurm", "gpu": "h100-80", "nodes": 1, "pp": 2, "tp": 1}


def planned(model: Path, **options: Any) -> Plan:
    return plan_only(str(model), **{**TWO, **options})


def said(plan: Plan) -> str:
    """The reason that is about PP."""
    (reason,) = (one for one in plan.reasons if one.startswith("PP "))
    return reason


def test_pp_gets_native_workers_where_nobody_said_otherwise(model: Path) -> None:
    plan = planned(model)
    assert plan.is_native
    assert said(plan) == (
        "PP 2: vLLM starts its own workers, as with --launcher native, so that its stages overlap (1.7 times the "
        "tokens/s with PP 2 on two H100); with --launcher torchrun they take turns, on vLLM's older model runner"
    )
    assert planned(model, gpu=None).is_native, "GPUs of an unknown kind"
    assert planned(model, nodes=2, gpus_per_node=1).is_native, "over two nodes"
    on_pbs = planned(model, scheduler="pbs", nodes=2, gpus_per_node=1)
    assert on_pbs.is_native
    assert "with --launcher pbsdsh they take turns" in said(on_pbs)
    assert not planned(model, pp=1, tp=2).is_native
    asked = planned(model, launcher="native")
    assert (asked.engine, asked.layout) == (plan.engine, plan.layout)
    assert not any(reason.startswith("PP 2") for reason in asked.reasons)


@pytest.mark.parametrize(
    ("options", "profile", "why"),
    [
        ({"launcher": "torchrun"}, "", "launcher torchrun is given (--launcher)"),
        ({"launcher": "srun"}, "", "launcher srun is given (--launcher)"),
        ({}, 'launcher = "srun"\n', "the profile's launcher is srun"),
        ({"verify": 4}, "", "--verify compares ranks that each sample"),
        ({"reproducible": True}, "", "--reproducible changes vLLM in the ranks"),
        (
            {"nodes": 3, "gpus_per_node": 2, "pp": 3},
            "",
            "replicas of 3 cannot be split evenly over nodes of 2",
        ),
        ({"scheduler": "kubernetes", "container": "vllm/vllm-openai:v0.32.0"}, "", "that was never run on kubernetes"),
    ],
)
def test_what_native_cannot_do_stays_with_torchrun(
    desk: Path, model: Path, options: dict[str, Any], profile: str, why: str
) -> None:
    if profile:
        (desk / "vllm-hpc.toml").write_text(PROFILE + profile)
        options = {"profile": "p", **options}
    plan = planned(model, **options)
    assert not plan.is_native
    assert "distributed_executor_backend" not in plan.engine
    assert said(plan).endswith(f"they overlap (1.7 times the tokens/s with PP 2 on two H100), but {why}")


def test_on_the_cpu_ranks_stay(desk: Path, model: Path) -> None:
    """There vLLM has no Triton, and so its older model runner in any case."""
    (desk / "vllm-hpc.toml").write_text(PROFILE + 'gpu_flag = "none"\n')
    plan = planned(model, gpu=None, profile="p")
    assert not plan.is_native
    assert said(plan).endswith("with --launcher native they overlap (1.7 times the tokens/s with PP 2 on two H100)")


def test_a_rehearsal_runs_every_rank(model: Path) -> None:
    plan = planned(model, rehearse=True)
    assert not plan.is_native
    assert said(plan) == "PP 2: vLLM would start its own workers; in a rehearsal every rank runs the engine"


def test_a_launcher_of_the_profile_that_this_machine_does_not_have_counts_for_nothing(desk: Path, model: Path) -> None:
    (desk / "vllm-hpc.toml").write_text('[profiles.p]\nlauncher = "mpiexec"\n')
    plan = planned(model, scheduler="local", profile="p", gpus_per_node=2)
    assert plan.is_native


def test_the_new_model_runner_is_not_asked_to_do_what_it_cannot(model: Path) -> None:
    asked: dict[str, Any] = {"env": {"VLLM_USE_V2_MODEL_RUNNER": "1"}}
    assert planned(model, **asked).is_native
    with pytest.raises(RequestError, match=r"VLLM_USE_V2_MODEL_RUNNER=1 and PP 2: .* does not start so: leave it out"):
        planned(model, launcher="torchrun", **asked)
    assert not planned(model, launcher="torchrun", env={"VLLM_USE_V2_MODEL_RUNNER": "0"}).is_native
