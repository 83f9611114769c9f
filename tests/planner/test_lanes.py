"""--ep and --attention-dp in plans: what is chosen, said and refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder
from tests.published_models import PUBLISHED

MIXTURE = next(model.config for model in PUBLISHED if model.name == "Qwen3-30B-A3B")
ON_GPUS = ("--scheduler", "slurm", "--gpu", "h200", "--engine", "load_format=dummy")


@pytest.fixture
def mixture(desk: Path) -> Path:
    folder = make_folder(desk / "mixture")
    (folder / "config.json").write_text(json.dumps(MIXTURE))
    (desk / "mine.py").write_text("class Mine:\n    def setup(self, ctx):\n        pass\n")
    return folder


def plan_of(run_cli: Cli, *options: str) -> dict[str, Any]:
    outcome = run_cli("plan", *options, "--json")
    assert outcome.code == 0, outcome.err
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_lanes_turn_on_expert_parallelism(mixture: Path, run_cli: Cli) -> None:
    cut = ("--nodes", "1", "--gpus-per-node", "8", "--tp", "2", "--attention-dp", "4")
    plan = plan_of(run_cli, "mixture", *ON_GPUS, *cut)
    assert (plan["tp"], plan["attention_dp"], plan["dp"], plan["world_size"]) == (2, 4, 1, 8)
    assert plan["engine"]["enable_expert_parallel"] is True
    assert "attention DP 4: each replica has 4 lanes of 2 GPUs, which run rows of their own" in plan["reasons"]
    asked = ("--attention-dp", "2", "--engine", "enable_expert_parallel=false")
    assert plan_of(run_cli, "mixture", *ON_GPUS, *asked)["engine"]["enable_expert_parallel"] is False


def test_ep_has_one_replica_of_all_gpus(mixture: Path, run_cli: Cli) -> None:
    plan = plan_of(run_cli, "mixture", *ON_GPUS, "--nodes", "2", "--gpus-per-node", "4", "--ep")
    assert (plan["attention_dp"] * plan["tp"], plan["dp"]) == (8, 1)


def test_a_rehearsal_without_a_model_may_have_lanes(run_cli: Cli, desk: Path) -> None:
    options = ("--rehearse", "--scheduler", "slurm", "--nodes", "2", "--gpus-per-node", "4", "--ep")
    assert plan_of(run_cli, *options)["attention_dp"] == 8


def test_what_ep_would_give_is_said_where_it_is_much(desk: Path, run_cli: Cli) -> None:
    config = next(model.config for model in PUBLISHED if model.name == "DeepSeek-V3")
    (make_folder(desk / "large") / "config.json").write_text(json.dumps(config))
    (desk / "rows.jsonl").write_text("".join(json.dumps({"prompt": "word " * 200}) + "\n" for _ in range(2000)))
    node = (*ON_GPUS, "--nodes", "1", "--gpus-per-node", "8", "--input", "rows.jsonl", "--max-tokens", "1000")
    told = [one for one in plan_of(run_cli, "large", *node)["reasons"] if one.startswith("with --ep: ")]
    assert len(told) == 1
    assert told[0].startswith("with --ep: TP ")
    assert not any("with --ep" in one for one in plan_of(run_cli, "large", *node, "--ep")["reasons"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--attention-dp", "3", "--gpus-per-node", "8", "--nodes", "1"), "does not fill 1 node of 8 GPUs: try --att"),
        (("--ep", "--launcher", "native"), "--ep needs a rank for each GPU, and --launcher native has one a node"),
        (("--attention-dp", "2", "--reproducible"), "--attention-dp 2 does not go with --reproducible"),
        (("--ep", "--program", "mine.py:Mine"), "--ep does not go with --program"),
        (("--attention-dp", "0"), "--attention-dp"),
        (("--attention-dp", "two"), "--attention-dp"),
        (("--engine", "data_parallel_size=2"), "use --attention-dp for lanes that share experts, --dp for replicas"),
    ],
    ids=str,
)
def test_what_lanes_cannot_have_is_refused(mixture: Path, run_cli: Cli, options: tuple[str, ...], said: str) -> None:
    outcome = run_cli("plan", "mixture", *ON_GPUS, *options)
    assert outcome.code == 2
    assert said in outcome.err and len(outcome.err.strip().splitlines()) == 1, outcome.err


def test_a_model_without_experts_is_refused(model: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "model", *ON_GPUS, "--ep")
    assert (outcome.code, "is for mixtures of experts, and" in outcome.err) == (2, True), outcome.err


def test_one_gpu_has_all_experts_whatever_was_asked(mixture: Path, run_cli: Cli) -> None:
    plan = plan_of(run_cli, "mixture", *ON_GPUS, "--nodes", "1", "--gpus-per-node", "1", "--ep")
    assert "--ep: a replica has one GPU, which holds all experts" in plan["reasons"]
    assert "enable_expert_parallel" not in plan["engine"]


def test_what_fits_in_place_of_lanes_that_do_not_has_lanes_too(desk: Path, run_cli: Cli) -> None:
    config = next(model.config for model in PUBLISHED if model.name == "DeepSeek-V3")
    (make_folder(desk / "large") / "config.json").write_text(json.dumps(config))
    outcome = run_cli("plan", "large", *ON_GPUS, "--nodes", "1", "--gpus-per-node", "4", "--ep")
    assert outcome.code == 1
    assert "does not fit on GPUs of type h200 with TP = " in outcome.err
    assert re.search(r"try --nodes \d+ --gpus-per-node \d+ --tp \d+ --pp 1 --attention-dp \d+ --dp 1", outcome.err)


def test_nothing_is_suggested_beside_pp(desk: Path, run_cli: Cli) -> None:
    config = next(model.config for model in PUBLISHED if model.name == "DeepSeek-V3")
    (make_folder(desk / "large") / "config.json").write_text(json.dumps(config))
    (desk / "rows.jsonl").write_text("".join(json.dumps({"prompt": "word " * 200}) + "\n" for _ in range(2000)))
    node = (*ON_GPUS, "--nodes", "1", "--gpus-per-node", "8", "--input", "rows.jsonl", "--max-tokens", "1000")
    assert not any("with --ep" in one for one in plan_of(run_cli, "large", *node, "--pp", "2")["reasons"])


@pytest.mark.parametrize(
    ("scheduler", "where"), [("slurm", "on 2 nodes"), ("pbs", "on 2 nodes"), ("local", "on this ma")]
)
def test_the_script_says_how_many_lanes_it_runs(mixture: Path, run_cli: Cli, scheduler: str, where: str) -> None:
    nodes = ("--nodes", "1" if scheduler == "local" else "2", "--gpus-per-node", "4", "--tp", "2")
    for lanes, told in (("2", "TP 2 x PP 1 x attention DP 2 x DP "), ("1", "TP 2 x PP 1 x DP ")):
        options = ("--scheduler", scheduler, "--rehearse", "--pp", "1", "--attention-dp", lanes)
        outcome = run_cli("render", "mixture", *nodes, *options)
        assert outcome.code == 0, outcome.err
        assert where in outcome.out and told in outcome.out
