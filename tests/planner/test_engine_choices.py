"""What a plan says of fp8 weights, an fp8 KV cache and speculation: near what was measured, and where it applies."""

from __future__ import annotations

import json
import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from benchmarks.gpu.engine_choices import Bench, _numbers
from tests.conftest import Cli
from tests.problems import of_rows, problem_of
from tests.published_models import PUBLISHED
from vllm_hpc.api.cards import card
from vllm_hpc.planner.engine_choices import engine_choices
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.rows.families import Sharing
from vllm_hpc.spec.gpus import GPUS
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import EngineChoice
from vllm_hpc.spec.request import Request, convert_options

pytestmark = pytest.mark.throughput
ONE = Layout(1, 1, 1, 1, 1, 1)
# Of 8B on one H200, tokens in: output tokens/s in bf16 (the second job where there were two) and with fp8 weights.
MEASURED = [(256, 11_234, 14_587), (779, 4_906, 6_922)]


def choices(
    name: str, gpu: str, rows: int, output: int = 128, mtp: int = 0, layout: Layout = ONE, **engine: Any
) -> tuple[dict[str, EngineChoice], tuple[str, ...]]:
    wanted = problem_of(name, gpu, of_rows(rows, output), **engine)
    found, said = engine_choices(wanted, layout, wanted.fit(layout), engine, mtp)
    return {one.key: one for one in found}, said


@pytest.mark.parametrize(("prompt", "plain", "fp8"), MEASURED)
def test_the_estimate_of_fp8_weights_is_near_what_was_measured(prompt: int, plain: int, fp8: int) -> None:
    rates = {}
    for engine in ({}, {"quantization": "fp8"}):
        wanted = problem_of("Llama-3.1-8B", "h200", of_rows(4096, 128, prompt), **engine)
        seconds = wanted.seconds(ONE, wanted.fit(ONE))
        assert seconds is not None
        rates[bool(engine)] = 4096 * 128 / seconds
    assert rates[False] == pytest.approx(plain, rel=0.05)
    assert rates[True] == pytest.approx(fp8, rel=0.05)
    wanted = problem_of("Llama-3.1-8B", "h200", of_rows(4096, 128, prompt))
    (choice,) = (one for one in engine_choices(wanted, ONE, wanted.fit(ONE), {}, 0)[0] if one.key == "quantization")
    assert choice.gain_low <= fp8 / plain <= choice.gain_high


def test_a_gpu_without_fp8_has_no_fp8_weights_or_cache() -> None:
    assert {"quantization", "kv_cache_dtype"} <= choices("Llama-3.1-8B", "h100-80", 4096)[0].keys()
    assert choices("Llama-3.1-8B", "a100-80", 4096)[0] == {}
    assert [name for name, gpu in GPUS.items() if gpu.has_fp8] == [
        "h100-80", "h100-64", "h100-94", "h100-pcie-80", "h200", "gh200-96", "gh200-144", "b200", "b300", "gb200",
        "gb300", "l40s", "l4", "rtx-4090", "rtx-6000-ada", "rtx-pro-6000", "rtx-pro-6000-workstation", "mi300a",
        "mi300x", "mi325x", "mi350x", "mi355x",
    ]  # fmt: skip


def test_what_is_decided_is_no_choice() -> None:
    assert "quantization" not in choices("Llama-3.1-8B", "h200", 4096, quantization="fp8")[0]
    assert "kv_cache_dtype" not in choices("Llama-3.1-8B", "h200", 4096, kv_cache_dtype="fp8")[0]
    assert "quantization" not in choices("gpt-oss-20b", "h200", 4096)[0], "its weights are quantised"
    assert "quantization" not in choices("Llama-3.1-8B", "h200", 4096, dtype="float32")[0]


def test_a_cache_that_limits_gains_more_from_being_halved() -> None:
    long = of_rows(2048, 512, prompt=7000)
    wanted = problem_of("Llama-3.1-8B", "h100-80", long)
    found = {one.key: one for one in engine_choices(wanted, ONE, wanted.fit(ONE), {}, 0)[0]}
    roomy = choices("Llama-3.1-8B", "h100-80", 2048)[0]["kv_cache_dtype"]
    assert "would have for twice as many" in found["kv_cache_dtype"].basis
    assert "room enough" in roomy.basis
    assert found["kv_cache_dtype"].gain_high > roomy.gain_high


def test_speculation_is_a_choice_only_of_few_sequences() -> None:
    many, said = choices("Llama-3.1-8B", "h200", 4096)
    assert many.keys().isdisjoint({"ngram", "suffix", "mtp"})
    assert said == (
        "speculation is no choice: a replica runs 512 sequences at once, for which checking drafts takes longer than "
        "it saves",
    )
    few, said = choices("Llama-3.1-8B", "h200", 8, 512)
    assert {"ngram", "suffix"} <= few.keys() and not said
    assert few["ngram"].gain_low < 1 < few["ngram"].gain_high
    assert "arctic-inference" in few["suffix"].basis
    assert few["ngram"].allow == "speculation"
    assert choices("Llama-3.1-8B", "h200", 8, 512, layout=Layout(1, 2, 2, 1, 2, 1))[0].keys().isdisjoint(few.keys() - {
        "quantization", "kv_cache_dtype"
    })  # fmt: skip
    assert choices("Llama-3.1-8B", "h200", 8, 0)[0].keys() == {"quantization"}, "nothing is generated"


def test_what_prompts_share_is_counted_with_speculation_too() -> None:
    """Else its estimate has the whole prefill, the plain one a tenth of it, and speculation seems to be slower."""
    rows = of_rows(16, 128, prompt=8192)
    sharing = Sharing(total=rows.prompt_tokens, shared=rows.prompt_tokens * 9 // 10)
    wanted = problem_of("Llama-3.1-8B", "h200", msgspec.structs.replace(rows, sharing=sharing))
    found = {
        is_sorted: engine_choices(msgspec.structs.replace(wanted, may_sort=is_sorted), ONE, wanted.fit(ONE), {}, 0)[0]
        for is_sorted in (False, True)
    }
    apart, shared = ({one.key: one.gain_high for one in listed} for listed in found.values())
    assert shared["ngram"] > apart["ngram"] > 1, "less prefill, of which speculation saves nothing"


@pytest.mark.parametrize(("heads", "has_mtp"), [(1, True), (0, False)])
def test_an_mtp_head_is_read_from_config_json(desk: Path, heads: int, has_mtp: bool) -> None:
    shape = next(one.config for one in PUBLISHED if "DeepseekV3ForCausalLM" in one.config.get("architectures", ()))
    (desk / "model").mkdir()
    (desk / "model" / "config.json").write_text(json.dumps(shape | {"num_nextn_predict_layers": heads}))
    (desk / "rows.jsonl").write_text('{"prompt": "a"}\n')
    plan = plan_only("./model", gpu="h200", nodes=2, gpus_per_node=8, tp=16, scheduler="slurm", input="rows.jsonl")
    assert ("mtp" in {one.key for one in plan.choices}) == has_mtp
    assert all(one.gain_high < 2.2 for one in plan.choices if one.key == "mtp")


@pytest.mark.parametrize("heads", [-1, 1e300, "1", None, [], True, 2**70])
def test_a_number_of_heads_that_is_none_stops_no_plan(model: Path, heads: Any) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": heads}))
    assert "mtp" not in {one.key for one in plan_only(str(model), gpu="h200", scheduler="slurm").choices}


@pytest.fixture
def big(desk: Path) -> Path:
    shape = next(one.config for one in PUBLISHED if one.name == "Llama-3.1-8B")
    (desk / "8b").mkdir()
    (desk / "8b" / "config.json").write_text(json.dumps(shape))
    (desk / "rows.jsonl").write_text((json.dumps({"prompt": [7] * 256}) + "\n") * 16)
    return desk / "8b"


ON_ONE = ("--gpu", "h200", "--nodes", "1", "--gpus-per-node", "1", "--scheduler", "slurm")


def test_plan_prints_them_as_text_json_and_card(big: Path, run_cli: Cli) -> None:
    """With the option that takes each, as a shell reads it; none is taken."""
    text = run_cli("plan", "./8b", *ON_ONE, "--input", "rows.jsonl").out
    assert "fp8 weights: 1." in text and "--engine quantization=fp8" in text
    printed = json.loads(run_cli("plan", "./8b", *ON_ONE, "--input", "rows.jsonl", "--json").out)
    assert not {"quantization", "kv_cache_dtype", "speculative_config"} & printed["engine"].keys()
    found = {one["key"]: one for one in printed["choices"]}
    assert found.keys() == {"quantization", "kv_cache_dtype", "ngram", "suffix"}
    assert found["quantization"].keys() == {"key", "allow", "engine", "gain_low", "gain_high", "basis", "answers"}
    plan = plan_only("./8b", gpu="h200", nodes=1, gpus_per_node=1, scheduler="slurm", input="rows.jsonl")
    html = card(plan)
    assert all(word in html for word in ("Faster, with other answers", "n-gram speculation", "fp8 KV cache"))
    for one in plan.choices:
        code = ("plan", "./8b", *ON_ONE, "--json", *shlex.split(one.option))
        assert one.engine.items() <= json.loads(run_cli(*code).out)["engine"].items()


def test_without_rows_they_are_for_rows_of_the_length_that_is_assumed(big: Path) -> None:
    del big
    (fp8, *_) = plan_only("./8b", gpu="h200", nodes=1, gpus_per_node=1, scheduler="slurm").choices
    assert "rows of 1536 tokens in and 512 out" in fp8.basis


@pytest.mark.parametrize(
    "more",
    [{"gpu": "80G"}, {"gpu": None}, {"gpu": "a40", "engine": {"enable_lora": True}}, {"reproducible": True},
     {"gpu": "t4"}],
)  # fmt: skip
def test_where_nothing_can_be_estimated_there_are_none(big: Path, more: dict[str, Any]) -> None:
    """An unknown GPU or speed, what the planner does not account for, no room; and who wants the same tokens."""
    del big
    plan = plan_only("./8b", **{"gpu": "h200", "nodes": 1, "gpus_per_node": 1, "scheduler": "slurm", **more})
    assert plan.choices == ()
    assert not any("speculation" in reason for reason in plan.reasons)


@pytest.mark.parametrize(
    ("given", "words"),
    [("fp8", "--allow must be of quantization, kv_cache_dtype, speculation, not 'fp8'"), ("", "not ''"),
     ("quantization,", "not ''"), ("quantization;rm", "not 'quantization;rm'"), ("QUANTIZATION", "not 'QUANTIZATION'"),
     ("quantization\n,x", "not 'x'"), ("all", "not 'all'"), ("speculative_config", "not 'speculative_config'"),
     ("\udcff", "--allow must be of")],
)  # fmt: skip
def test_what_cannot_be_allowed_is_refused_in_a_line(model: Path, run_cli: Cli, given: str, words: str) -> None:
    outcome = run_cli("plan", model, "--scheduler", "slurm", "--allow", given)
    assert outcome.code == 2 and words in outcome.err and len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("toml", ["7", "true", "{ a = 1 }", "[1]", '"fp8"', '["quantization", ""]', "[[]]"])
def test_neither_is_it_taken_from_job_toml(desk: Path, run_cli: Cli, toml: str) -> None:
    (desk / "job").mkdir()
    (desk / "job" / "job.toml").write_text(f"rehearse = true\nallow = {toml}\n")
    outcome = run_cli("plan", "job")
    assert outcome.code == 2 and "allow" in outcome.err and len(outcome.err.splitlines()) == 1


def test_names_may_be_given_together_or_apart(desk: Path, run_cli: Cli) -> None:
    both = ["quantization", "speculation"]
    for given in ("quantization,speculation", "quantization, speculation", both, [both[0], "speculation,quantization"],
                  set(both)):  # fmt: skip
        assert convert_options({"model": "m", "allow": given}).allow == both
    (desk / "job").mkdir()
    (desk / "job" / "job.toml").write_text('rehearse = true\nallow = "speculation"\n')
    assert run_cli("plan", "job").code == 0
    assert msgspec.json.decode(msgspec.json.encode(Request(model="m")), type=Request).allow == []


def test_the_benchmark_on_a_gpu_puts_the_estimate_beside_what_it_measured() -> None:
    given = Namespace(shape="llama-8b", rows=2048, output=128, sequences=512, gpu="h200", seconds=9.0)
    assert _numbers("bf16", given) == [2048, 512, 16] and _numbers("ngram", given) == [512, 16]
    bench = Bench(given)
    bench.lines += [
        {"engine": "bf16", "rows": {2048: 10_000.0, 16: 2_000.0}, "itself": "equal"},
        {"engine": "fp8", "rows": {2048: 13_000.0}, "effect": "others"},
        {"engine": "ngram", "rows": {16: 3_000.0}},
    ]
    lines = bench.table().splitlines()[2:]
    assert lines[0] == "| bf16 | 2048 | 10,000 | 1.00 | - | equal |"
    assert lines[2].startswith("| fp8 | 2048 | 13,000 | 1.30 | 1.") and lines[2].endswith("| others |")
    assert lines[3].startswith("| ngram | 16 | 3,000 | 1.50 | 0.")
