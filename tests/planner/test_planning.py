"""plan and submit with a model that is known: what they print, refuse, and estimate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder, make_job
from tests.marks import needs_vllm
from tests.published_models import PUBLISHED
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord, RankRecord
from vllm_hpc.planner.gpu_hours import START_S
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.request import Request

CONFIGS = {model.name: model.config for model in PUBLISHED}
# What nvidia-smi prints on a node with two H100.
SMI = "#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 81559'\necho 'NVIDIA H100 80GB HBM3, 81559'\n"


@pytest.fixture
def models(desk: Path) -> Path:
    for name, config in CONFIGS.items():
        (make_folder(desk / name, {"max_position_embeddings": 8192} | config) / "tokenizer_config.json").unlink()
    return desk


def plan(run_cli: Cli, *args: str, code: int = 0) -> dict[str, Any]:
    outcome = run_cli("plan", *args, "--scheduler", "slurm", "--json")
    assert (outcome.code, outcome.err) == (code, ""), outcome
    found: dict[str, Any] = json.loads(outcome.out)
    return found


def test_a_plan_that_does_not_fit_is_exit_code_1_and_its_advice_fits(models: Path, run_cli: Cli) -> None:
    args = ("Llama-3.1-70B", "--tp", "1", "--pp", "1", "--gpu", "a100-40")
    found = plan(run_cli, *args, code=1)
    assert found["fits"] is False
    assert "weights 131.4 GiB" in found["reasons"][-1]
    advice = found["reasons"][-1].rpartition(": try ")[2].split()
    assert plan(run_cli, "Llama-3.1-70B", "--gpu", "a100-40", *advice)["fits"] is True
    refused = run_cli("submit", *args, "--scheduler", "slurm")
    assert refused.code == 2
    assert refused.err.startswith("Error: does not fit on GPUs of type a100-40")
    assert not (models / "runs").exists()


def test_advice_keeps_to_the_nodes_that_were_asked_for(models: Path, run_cli: Cli) -> None:
    args = ("Llama-3.1-70B", "--gpu", "a100-40", "--nodes", "2", "--gpus-per-node", "2", "--pp", "1")
    reason = plan(run_cli, *args, code=1)["reasons"][-1]
    assert "try --nodes 2 --gpus-per-node 2 --tp 2 --pp 2 --dp 1" in reason


def test_a_plan_for_people_ends_with_what_to_do(models: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "Llama-3.1-70B", "--tp", "1", "--pp", "1", "--gpu", "a100-40", "--scheduler", "slurm")
    assert outcome.code == 1
    assert "LlamaForCausalLM: 70.6 B parameters in bfloat16, 80 layers" in outcome.out
    assert outcome.err.startswith("Error: the model does not fit")


@pytest.mark.parametrize(
    ("options", "fits", "weights"),
    [
        (["--gpu", "h100-80"], True, 61.03),
        (["--gpu", "a100-40", "--tp", "1", "--pp", "1"], False, 61.03),
        (["--gpu", "a100-40", "--tp", "1", "--pp", "1", "--engine", "quantization=fp8"], True, 31.96),
        (["--gpu", "h100-80", "--tp", "1", "--pp", "1", "--engine", "dtype=float32"], False, 122.05),
        (["--gpu", "h100-80", "--tp", "1", "--pp", "1", "--engine", "gpu_memory_utilization=0.5"], False, 61.03),
        (["--gpu", "70G", "--tp", "1", "--pp", "1", "--engine", "max_model_len=8192"], False, 61.03),
        (["--gpu", "74G", "--tp", "1", "--pp", "1", "--engine", "max_model_len=8192"], True, 61.03),
        ([], None, None),
    ],
)
def test_memory_follows_the_engines_options(
    models: Path, run_cli: Cli, options: list[str], fits: bool | None, weights: float | None
) -> None:
    found = plan(run_cli, "Qwen2.5-32B", *options, code=1 if fits is False else 0)
    assert found["fits"] is fits
    assert found["memory"]["weights_gib"] == pytest.approx(weights, abs=0.1)


def test_an_fp8_kv_cache_holds_twice_as_much(models: Path, run_cli: Cli) -> None:
    one, two = (
        plan(run_cli, "Llama-3.1-8B", "--gpu", "h100-80", "--engine", f"kv_cache_dtype={dtype}")["kv_tokens"]
        for dtype in ("auto", "fp8")
    )
    assert two == pytest.approx(2 * one, rel=0.001)


def test_the_profile_says_which_gpu(models: Path, run_cli: Cli) -> None:
    (models / "vllm-hpc.toml").write_text('[profiles.a]\ngpu = "a100-40"\n[profiles.b]\ngpu_memory_gib = 20\n')
    assert plan(run_cli, "Llama-3.1-8B", "--profile", "a")["memory"]["gpu_gib"] == 39.4
    assert plan(run_cli, "Llama-3.1-8B", "--profile", "b")["memory"]["gpu_gib"] == 20
    assert plan(run_cli, "Llama-3.1-8B", "--profile", "b", "--gpu", "h200")["memory"]["gpu_gib"] == 139.8


def test_the_nodes_own_gpus_are_seen(models: Path, run_cli: Cli) -> None:
    (models / "bin" / "nvidia-smi").write_text(SMI)
    (models / "bin" / "nvidia-smi").chmod(0o755)
    outcome = run_cli("plan", "Llama-3.1-8B", "--scheduler", "local", "--nodes", "1", "--json")
    found = json.loads(outcome.out)
    assert (found["fits"], found["dp"], found["memory"]["gpu_gib"]) == (True, 2, 79.18)
    refused = run_cli("plan", "Llama-3.1-8B", "--scheduler", "local", "--tp", "4", "--nodes", "1", "--json")
    assert refused.code == 2
    assert "--tp 2" in refused.err


def test_the_longest_row_decides_the_context(models: Path, run_cli: Cli) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "a" * 100},
        {"prompt": list(range(300))},
        {"prompt": "b", "sampling": {"max_tokens": 600}},
    ]
    (models / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.jsonl")
    short = plan(run_cli, *options, "--max-tokens", "50")
    assert short["engine"]["max_model_len"] == 1024
    assert any("needs more than 617 tokens" in reason for reason in short["reasons"])
    assert plan(run_cli, *options, "--max-tokens", "400")["engine"]["max_model_len"] == 1024
    assert plan(run_cli, *options, "--max-tokens", "725")["engine"]["max_model_len"] == 2048
    assert "max_model_len" not in plan(run_cli, *options, "--max-tokens", "9000")["engine"]
    found = plan(run_cli, *options, "--engine", "max_model_len=4000")
    assert found["engine"]["max_model_len"] == 4000
    assert found["cost"]["output_tokens"] == 256 * 2 + 600


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_rows_own_limit_wins_by_either_name(models: Path, run_cli: Cli, name: str) -> None:
    (models / "in.jsonl").write_text(json.dumps({"prompt": "a", "sampling": {name: 600}}) + "\n")
    found = plan(run_cli, "Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.jsonl", "--max-tokens", "50")
    assert found["cost"]["output_tokens"] == 600
    assert any("needs more than 617 tokens" in reason for reason in found["reasons"])


@pytest.mark.parametrize(
    ("longest", "gpu", "length"),
    [
        (2048, "17.75G", 2048),
        (2049, "18G", 2049),  # it would fit, but only just
        (2049, "18.5G", 4096),
        (2049, "17.75G", 2049),
        (2049, None, 4096),
        (4097, "18.5G", 4097),
        (4097, "19.5G", None),  # the model's own
        (4097, None, None),
    ],
)
def test_a_context_is_rounded_up_unless_it_is_known_not_to_fit(
    models: Path, run_cli: Cli, longest: int, gpu: str | None, length: int | None
) -> None:
    """What vLLM compiles is kept for other inputs; a layout that the exact length would have had is never lost."""
    (models / "in.txt").write_text("a" * (longest - 16 - 256) + "\n")
    options = ("--tp", "1", "--pp", "1", "--engine", "max_num_seqs=64", "--input", "in.txt")
    found = plan(run_cli, "Llama-3.1-8B", *options, *(("--gpu", gpu) if gpu else ()))
    assert (found["engine"].get("max_model_len"), found["fits"]) == (length, True if gpu else None)


def test_a_long_context_is_not_rounded_up_for_memory_that_is_not_known(models: Path, run_cli: Cli) -> None:
    """vLLM would not start where its KV cache does not hold one sequence of that length."""
    config = models / "Llama-3.1-8B/config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 131_072}))
    (models / "in.txt").write_text("a" * 66_000 + "\n")
    options = ("Llama-3.1-8B", "--tp", "1", "--pp", "1", "--input", "in.txt")
    assert plan(run_cli, *options)["engine"]["max_model_len"] == 66_000 + 16 + 256
    assert "max_model_len" not in plan(run_cli, *options, "--gpu", "h100-80")["engine"]  # the model's own


def test_a_context_stays_as_it_is_without_chunked_prefill(models: Path, run_cli: Cli) -> None:
    """vLLM refuses a max_model_len above max_num_batched_tokens then."""
    (models / "in.txt").write_text("a" * 2000 + "\n")
    given = ("--engine", "enable_chunked_prefill=false", "--engine", "max_num_batched_tokens=3000")
    found = plan(run_cli, "Llama-3.1-8B", "--input", "in.txt", "--gpu", "h100-80", *given)
    assert found["engine"]["max_model_len"] == 2000 + 16 + 256


def test_a_chat_without_a_known_template_has_no_longest_row(models: Path, run_cli: Cli) -> None:
    (models / "in.jsonl").write_text('{"messages": [{"role": "user", "content": "hello"}]}\n')
    options = ("Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.jsonl")
    assert "max_model_len" not in plan(run_cli, *options)["engine"]
    (models / "Llama-3.1-8B" / "chat_template.jinja").write_text("x" * 1000)
    length = plan(run_cli, *options)["engine"]["max_model_len"]
    assert length == 2048


def test_a_cost_is_a_range_with_a_basis(models: Path, run_cli: Cli) -> None:
    (models / "in.txt").write_text("A prompt of some words.\n" * 20_000)
    options = ("Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.txt", "--nodes", "1", "--gpus-per-node", "4")
    cost = plan(run_cli, *options)["cost"]
    assert 0 < cost["gpu_hours_low"] < cost["gpu_hours_high"]
    assert "an estimate for h100-80, times 0.8 to 2 " in cost["basis"]
    assert cost["output_tokens"] == 20_000 * 256
    finished_job(models / "runs" / "earlier", str(models / "Llama-3.1-8B"), tokens_per_s_per_gpu=10_000)
    measured = plan(run_cli, *options)["cost"]
    assert "1 earlier job" in measured["basis"]
    tokens = measured["prompt_tokens"] + measured["output_tokens"]
    assert measured["gpu_hours_low"] < tokens / 10_000 / 3600 + 4 * 300 / 3600 < measured["gpu_hours_high"] + 0.2


def test_each_task_of_an_array_starts_by_itself(models: Path, run_cli: Cli) -> None:
    (models / "in.txt").write_text("A prompt.\n")
    options = ("--gpu", "h100-80", "--input", "in.txt", "--gpus-per-node", "4", "--tp", "4")
    cost = plan(run_cli, "Llama-3.1-8B", *options, "--dp", "8", "--array")["cost"]
    starts = [32 * seconds / 3600 for seconds in START_S]
    assert [cost["gpu_hours_low"], cost["gpu_hours_high"]] == [pytest.approx(start, rel=0.1) for start in starts]


def test_what_a_real_job_took_is_within_the_range(models: Path, run_cli: Cli) -> None:
    """docs/performance.md: 8192 rows of 256 tokens in and 128 out, four H100: 43,980 tok/s, after a start of 36.4 s."""
    row = json.dumps({"prompt": [7] * 256, "sampling": {"max_tokens": 128}})
    (models / "in.jsonl").write_text((row + "\n") * 8192)
    options = ("--gpu", "h100-80", "--input", "in.jsonl", "--nodes", "1", "--gpus-per-node", "4")
    cost = plan(run_cli, "Llama-3.1-8B", *options)["cost"]
    generating, start = 8192 * 128 / 43_980, 36.4
    assert cost["gpu_hours_low"] < 4 * (generating + start) / 3600 < cost["gpu_hours_high"]
    seconds = [900 * cost[f"gpu_hours_{end}"] - least for end, least in (("low", START_S[0]), ("high", START_S[1]))]
    assert seconds[0] < generating < seconds[1] < 3 * generating


def test_earlier_jobs_of_another_model_or_damaged_ones_are_passed_over(models: Path, run_cli: Cli) -> None:
    finished_job(models / "runs" / "other", str(models / "Qwen3-8B"), tokens_per_s_per_gpu=10_000)
    finished_job(models / "runs" / "broken", str(models / "Llama-3.1-8B"), tokens_per_s_per_gpu=10_000)
    (models / "runs" / "broken" / "job.json").write_text("{")
    (models / "in.txt").write_text("A prompt.\n")
    cost = plan(run_cli, "Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.txt")["cost"]
    assert "an estimate" in cost["basis"]


def test_a_large_input_is_sampled_and_that_is_said(models: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.planner.workload.WHOLE_BYTES", 1000)
    monkeypatch.setattr("vllm_hpc.planner.workload.SAMPLE_ROWS", 10)
    (models / "in.txt").write_text("A prompt of some words.\n" * 1000)
    found = plan(run_cli, "Llama-3.1-8B", "--gpu", "h100-80", "--input", "in.txt")
    assert "a sample of the input" in found["cost"]["basis"]
    assert found["cost"]["output_tokens"] == pytest.approx(256 * 1000, rel=0.05)
    assert "max_model_len" not in found["engine"], "a row that was not read may be longer"


def test_very_many_short_rows_run_more_at_once(models: Path, run_cli: Cli) -> None:
    (models / "in.txt").write_text("A prompt of some words.\n" * 24 * 1024)
    args = ("Llama-3.1-8B", "--gpu", "h100-80", "--nodes", "1", "--gpus-per-node", "1", "--max-tokens", "384")
    found = plan(run_cli, *args, "--input", "in.txt")
    assert found["engine"]["max_num_seqs"] == found["concurrency"] == 1024
    assert plan(run_cli, *args, "--input", "in.txt", "--engine", "max_num_seqs=512")["concurrency"] == 512


def test_what_is_submitted_is_what_was_planned(models: Path, run_cli: Cli) -> None:
    args = ("Llama-3.1-8B", "--gpu", "h100-80", "--nodes", "2", "--gpus-per-node", "4", "--scheduler", "slurm")
    assert run_cli("submit", *args, "--name", "run").code == 0
    record = json.loads((models / "runs" / "run" / "job.json").read_bytes())
    assert record["plan"]["layout"]["dp"] == 8
    assert record["plan"]["engine"]["max_num_seqs"] == 512


def finished_job(path: Path, model: str, tokens_per_s_per_gpu: int) -> None:
    """A completed job of one H100, as its ranks and collect would have left it."""
    folder = make_job(path)
    layout = Layout(1, 1, 1, 1, 1, 1)
    record = JobRecord(
        request=Request(model=model), plan=Plan(layout=layout, engine={}), scheduler="local", model=model,
        sampling={}, rows=3, created_at=0.0,
    )  # fmt: skip
    write_json(folder.job_json, record)
    tokens = tokens_per_s_per_gpu * 100
    summary = {"state": "COMPLETED", "prompt_tokens": tokens // 2, "completion_tokens": tokens // 2}
    write_json(folder.summary, {**summary, "timings": {"generate": 100.0}})
    rank = RankRecord(
        rank=0, replica=0, attempt=1, host="node", pid=1, device="cuda:0", device_name="NVIDIA H100 80GB HBM3",
        device_gib=79.18, outcome="ok", updated_at=0.0,
    )  # fmt: skip
    write_json(folder.rank_record(0), rank)


def test_a_context_that_has_no_room_is_refused_with_one_that_has(models: Path, run_cli: Cli) -> None:
    config = CONFIGS["Llama-3.1-70B"] | {"max_position_embeddings": 131072}
    (models / "Llama-3.1-70B" / "config.json").write_text(json.dumps(config))
    args = ("Llama-3.1-70B", "--gpu", "h100-80", "--nodes", "1", "--gpus-per-node", "2", "--tp", "2", "--pp", "1")
    reason = plan(run_cli, *args, code=1)["reasons"][-1]
    length = reason.rpartition("--engine max_model_len=")[2]
    assert plan(run_cli, *args, "--engine", f"max_model_len={length}")["fits"] is True
    assert plan(run_cli, *args, "--engine", f"max_model_len={int(length) + 16}", code=1)["fits"] is False


def test_a_profiles_unknown_gpu_is_refused_where_it_stands(models: Path, run_cli: Cli) -> None:
    (models / "vllm-hpc.toml").write_text('[profiles.a]\ntime = "1:00:00"\ngpu = "h100-81"\n')
    outcome = run_cli("plan", "Llama-3.1-8B", "--profile", "a")
    assert outcome.code == 2
    assert "vllm-hpc.toml:3: 'gpu' 'h100-81' is not known: use h100-80" in outcome.err


@pytest.mark.parametrize(
    ("has_vllm", "said"),
    [pytest.param(True, "takes a whole number, not", marks=needs_vllm), (False, "must be a whole number above 0")],
)
def test_a_number_of_5000_digits_is_refused_in_one_line(
    models: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, has_vllm: bool, said: str
) -> None:
    """By the source of vLLM, and where that is not here by what the planner itself takes."""
    if not has_vllm:
        monkeypatch.setattr("vllm_hpc.spec.vllm_arguments._package", lambda: None)
    outcome = run_cli("plan", "Llama-3.1-8B", "--engine", "max_num_seqs=" + "9" * 5000)
    assert outcome.code == 2
    assert said in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_can_plan_and_render(models: Path, run_cli: Cli) -> None:
    assert plan(run_cli, "Llama-3.1-8B", "--gpu", "h100-80")["fits"] is True
    assert run_cli("render", "Llama-3.1-8B", "--gpu", "h100-80", "--scheduler", "slurm").out.startswith("#!")
    outcome = run_cli("submit", "demo", "--scheduler", "local")
    assert (outcome.code, len(outcome.err.splitlines())) == (2, 1)
    assert "XDG_CACHE_HOME" in outcome.err
