"""Layouts that are chosen for a model: always ones that vLLM takes, and refusals that name what is then accepted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.problems import MODELS, cut, of_rows, problem_of
from tests.published_models import PUBLISHED
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.candidate import PlanningProblem
from vllm_hpc.planner.choose_layout import ROOM, Choice, choose, missing_memory
from vllm_hpc.planner.engine_settings import choose_settings, not_modelled
from vllm_hpc.planner.models.config import read_shape, with_whole_experts
from vllm_hpc.planner.more_sequences import with_more_sequences
from vllm_hpc.planner.parallelism import why_not
from vllm_hpc.planner.workload import Workload, measure_workload
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.errors import LayoutError, RequestError
from vllm_hpc.spec.gpus import GIB, GPUS, find_gpu
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.nearest_layout import OPTIONS
from vllm_hpc.spec.solve_layout import Asked, solve, solve_array


def pick(name: str, gpu: str | None, capacity: int | None = None, **asked: Any) -> Choice:
    return choose(Asked(**asked), capacity, problem_of(name, gpu), solve)


@pytest.mark.parametrize(
    ("name", "gpu", "asked", "expected"),
    [
        ("Llama-3.1-8B", "h100-80", {"nodes": 1, "gpus_per_node": 4}, (1, 1, 4)),
        ("Qwen2.5-32B", "h100-80", {"nodes": 1, "gpus_per_node": 4}, (2, 1, 2)),
        ("Llama-3.1-70B", "h100-80", {"nodes": 2, "gpus_per_node": 8}, (4, 1, 4)),
        ("Llama-3.1-70B", "a100-40", {"nodes": 2, "gpus_per_node": 4}, (4, 2, 1)),
        ("Llama-3.1-405B", "h100-80", {}, (8, 2, 1)),
        ("DeepSeek-R1", "h100-80", {"nodes": 4, "gpus_per_node": 4}, (4, 4, 1)),
        ("DeepSeek-R1", "h200", {"nodes": 1, "gpus_per_node": 8}, (8, 1, 1)),
        ("Falcon-7B", "t4", {}, (1, 2, 1)),
        ("Llama-3.1-70B", "h100-80", {"nodes": 1, "gpus_per_node": 6}, (2, 3, 1)),
        ("Qwen2.5-32B", "a100-80", {"nodes": 4, "gpus_per_node": 1}, (1, 2, 2)),
        ("SmolLM2-135M", "t4", {"nodes": 1, "gpus_per_node": 3, "dp": 1}, (3, 1, 1)),
        ("Phi-4", "h100-80", {"nodes": 1, "gpus_per_node": 8, "dp": 1}, (2, 4, 1)),
        ("Llama-3.1-8B", None, {"nodes": 2, "gpus_per_node": 4}, (1, 1, 8)),
        ("Llama-3.1-8B", None, {"nodes": 2, "gpus_per_node": 4, "dp": 1}, (4, 2, 1)),
        ("Llama-3.1-8B", "h100-80", {"nodes": 2, "tp": 16}, (16, 1, 1)),
    ],
)
def test_the_layout_that_an_expert_would_take(
    name: str, gpu: str | None, asked: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    assert cut(pick(name, gpu, **asked)) == expected


@pytest.mark.parametrize(
    ("rows", "output", "gpu", "asked", "expected"),
    [
        (16, 8192, "h100-80", {}, (4, 1, 1)),
        (1, 8192, "h100-80", {}, (4, 1, 1)),
        (16, 128, "h100-80", {}, (1, 1, 4)),  # a second or two: the start decides
        (8192, 128, "h100-80", {}, (1, 1, 4)),
        (8192, 2048, "h100-80", {}, (1, 1, 4)),
        (16, 8192, "l40s", {}, (1, 1, 4)),  # no link
        (16, 8192, "80G", {}, (1, 1, 4)),  # no speed
        (16, 8192, "h100-80", {"dp": 4}, (1, 1, 4)),
        (16, 8192, "h100-80", {"dp": 2}, (2, 1, 2)),
        (16, 8192, "h100-80", {"tp": 1}, (1, 1, 4)),
    ],
)
def test_few_long_rows_share_the_weights_of_one_replica(
    rows: int, output: int, gpu: str, asked: dict[str, Any], expected: tuple[int, int, int]
) -> None:
    """Each of four replicas would read all weights in every step, for four rows."""
    wanted = problem_of("Llama-3.1-8B", gpu, of_rows(rows, output))
    choice = choose(Asked(nodes=1, gpus_per_node=4, **asked), None, wanted, solve)
    assert cut(choice) == expected
    assert ("the fastest by estimate" in choice.reasons[-1]) is (expected == (4, 1, 1))


@pytest.mark.parametrize(
    ("name", "gpu", "workload", "expected"),
    [
        # 16 rows of 64 outputs each are 1024 sequences.
        (
            "Llama-3.1-8B",
            "h100-80",
            msgspec.structs.replace(of_rows(16, 64 * 512), outputs=1024, longest=768),
            (1, 1, 4),
        ),
        # As one replica 512 run at once, and the 8 that are left take as long again; as four there is room for half.
        ("Qwen3-30B-A3B", "h100-80", of_rows(520, 2000, 100), (2, 1, 2)),
        ("gpt-oss-20b", "h100-80", of_rows(8, 8192), (1, 1, 4)),  # reads few of its experts for two rows
        # One GPU holds the weights, and KV cache for 12 rows: many rows, few at once.
        ("Qwen2.5-32B", "h100-80", of_rows(2048, 1000, 1000), (2, 1, 2)),
    ],
)
def test_what_runs_at_once_decides(name: str, gpu: str, workload: Workload, expected: tuple[int, int, int]) -> None:
    assert cut(choose(Asked(nodes=1, gpus_per_node=4), None, problem_of(name, gpu, workload), solve)) == expected


@pytest.mark.parametrize(("is_native", "expected"), [(False, (4, 1, 2)), (True, (4, 2, 1))])
def test_stages_that_take_turns_lose_to_a_replica_that_is_a_little_less_busy(
    is_native: bool, expected: tuple[int, int, int]
) -> None:
    """Room for 123 sequences, not for 128."""
    wanted = problem_of("Gemma-2-27B", "a100-40", of_rows(10_000, 1000, 1000))
    wanted = msgspec.structs.replace(wanted, overlaps_stages=is_native)
    assert cut(choose(Asked(nodes=2, gpus_per_node=4), None, wanted, solve)) == expected


def test_of_two_nodes_no_tp_group_is_made() -> None:
    wanted = problem_of("Llama-3.1-8B", "h100-80", of_rows(16, 8192))
    assert cut(choose(Asked(nodes=2, gpus_per_node=4), None, wanted, solve)) == (4, 1, 2)


def test_many_rows_that_are_long_too_have_room_as_one_tp_group() -> None:
    """Each of four replicas would hold 54 rows of 8448 tokens, and TP=4 261: the first layout with room to be busy."""
    wanted = problem_of("Llama-3.1-8B", "h100-80", of_rows(8192, 8192))
    choice = choose(Asked(nodes=1, gpus_per_node=4), None, wanted, solve)
    assert cut(choice) == (4, 1, 1)
    assert "the smallest that stays busy" in choice.reasons[-1]


def test_an_array_keeps_its_replicas() -> None:
    wanted = problem_of("Llama-3.1-8B", "h100-80", of_rows(16, 8192))
    assert cut(choose(Asked(dp=4), 4, wanted, solve_array)) == (1, 1, 4)


def test_without_room_to_be_busy_stages_that_take_turns_still_lose() -> None:
    """TP=4 x PP=2 has a few tokens more of KV cache than TP=8, and each step takes twice as long."""
    choice = choose(
        Asked(nodes=1, gpus_per_node=8), None, problem_of("Qwen2.5-32B", "a100-40", of_rows(100, 2000, 30_000)), solve
    )
    assert cut(choice) == (8, 1, 1)


@pytest.mark.parametrize(
    ("name", "gpu", "nodes", "rows", "expected"),
    [
        ("Llama-3.1-8B", "h100-80", 4, of_rows(1000, 30_000, 30_000), (4, 1, 4)),  # first busy: TP=4 x PP=4
        ("Qwen3-30B-A3B", "a100-40", 2, of_rows(1000, 1000, 30_000), (4, 1, 2)),  # TP=4 x PP=2 has a third more room
        ("Llama-3.1-70B", "h200", 4, of_rows(1000, 30_000, 30_000), (4, 1, 4)),
    ],
)
def test_of_long_rows_that_fill_the_kv_cache_the_estimate_decides(
    name: str, gpu: str, nodes: int, rows: Workload, expected: tuple[int, int, int]
) -> None:
    choice = choose(Asked(nodes=nodes, gpus_per_node=4), None, problem_of(name, gpu, rows), solve)
    assert cut(choice) == expected
    assert "the fastest by estimate" in choice.reasons[-1]


@pytest.mark.parametrize("asked", [{}, {"tp": 8}, {"tp": 4, "dp": 2}])
def test_no_layout_loses_twice_or_to_itself(asked: dict[str, Any]) -> None:
    wanted = problem_of("Qwen2.5-32B", "a100-40", of_rows(100, 2000, 30_000))
    choice = choose(Asked(nodes=1, gpus_per_node=8, **asked), None, wanted, solve)
    cuts = [other.split(":")[0] for other in choice.runners_up]
    assert len(set(cuts)) == len(cuts)
    assert "TP {} × PP {} × DP {}".format(*cut(choice)) not in cuts


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(MODELS)), gpu=st.sampled_from([None, *sorted(GPUS)]),
    asked=st.fixed_dictionaries(
        {}, optional={
            "nodes": st.integers(1, 6), "gpus_per_node": st.integers(1, 8), "tp": st.integers(1, 16),
            "pp": st.integers(1, 40), "dp": st.integers(1, 8),
        },
    ),
    capacity=st.sampled_from([None, 1, 4, 8]),
)  # fmt: skip
def test_every_layout_is_one_that_vllm_takes_and_every_refusal_names_one(
    name: str, gpu: str | None, asked: dict[str, Any], capacity: int | None
) -> None:
    try:
        choice = pick(name, gpu, capacity, **asked)
    except LayoutError as refusal:
        for changed in alternatives(str(refusal), asked):
            accepted = pick(name, gpu, capacity, **changed)
            assert why_not(MODELS[name], accepted.layout.tp, accepted.layout.pp) is None
        return
    layout = choice.layout
    assert why_not(MODELS[name], layout.tp, layout.pp) is None
    assert layout.tp * layout.pp * layout.dp == layout.nodes * layout.procs_per_node
    assert layout.procs_per_node <= layout.gpus_per_node
    may_cross = "tp" in asked or "pp" in asked  # what is asked for leaves TP no room inside a node
    assert may_cross or layout.nodes == 1 or layout.procs_per_node % layout.tp == 0, "TP inside a node"
    for key, value in asked.items():
        assert getattr(layout, key) == value
    assert (choice.fit is None) == (gpu is None)


def alternatives(message: str, asked: dict[str, Any]) -> list[dict[str, int]]:
    """What a refusal proposes: '... try --tp 4 --dp 2 or --nodes 2 without --dp'."""
    assert any(character.isdigit() for character in message)
    fields = {option: name for name, option in OPTIONS.items()}
    found = []
    for part in message.rpartition(": try ")[2].split(" or "):
        options = re.match(r"(--[a-z-]+ \d+(?: --[a-z-]+ \d+)?)(?: without (.+))?$", part)
        assert options, message
        left = set((options[2] or "").split(" and ")) - {""}
        kept = {name: value for name, value in asked.items() if OPTIONS[name] not in left}
        given = {fields[option]: int(value) for option, value in re.findall(r"(--[a-z-]+) (\d+)", options[1])}
        found.append({**kept, **given})
    assert found
    return found


def test_a_plan_says_why_and_who_lost() -> None:
    choice = pick("Qwen2.5-32B", "h100-80", nodes=1, gpus_per_node=4)
    assert any("room for 159 sequences of 2048 tokens" in reason for reason in choice.reasons)
    assert choice.runners_up[0].startswith("TP 1 × PP 1 × DP 4: room for 17 sequences")
    too_small = pick("Llama-3.1-70B", "a100-80", nodes=1, gpus_per_node=4)
    assert "does not fit: weights 131.4 GiB" in too_small.runners_up[1]


def test_no_more_than_one_replica_a_row_is_kept_busy() -> None:
    """Two rows need no room for 128."""
    two = Workload(rows=2, longest=1000, prompt_tokens=500, output_tokens=1500)
    choice = choose(Asked(nodes=1, gpus_per_node=2), None, problem_of("Qwen2.5-32B", "h100-80", two), solve)
    assert cut(choice) == (1, 1, 2)


@pytest.mark.parametrize(
    ("gpu", "given", "expected"),
    [
        ("h100-80", {}, {"max_num_seqs": 512, "max_num_batched_tokens": 16384, "max_model_len": 700}),
        ("a100-80", {}, {"max_num_seqs": 256, "max_num_batched_tokens": 8192, "max_model_len": 700}),
        ("t4", {"max_num_seqs": 9}, {"max_num_batched_tokens": 8192, "max_model_len": 700}),
        (None, {}, {"max_model_len": 700}),
        ("h100-80", {"max_model_len": 1024, "max_num_seqs": 8, "max_num_batched_tokens": 64}, {}),
        ("h100-80", {"max_num_batched_tokens": 64}, {"max_num_seqs": 64, "max_model_len": 700}),  # or vLLM refuses it
    ],
)
def test_settings_go_with_device_and_input_and_engine_options_win(
    gpu: str | None, given: dict[str, int], expected: dict[str, int]
) -> None:
    device = Device(find_gpu(gpu), "--gpu") if gpu else None
    rows = Workload(rows=10, longest=700, prompt_tokens=1000, output_tokens=2560)
    chosen = choose_settings(MODELS["Llama-3.1-8B"], device, rows, given, 1.0)
    assert chosen.engine == expected
    assert chosen.load.max_model_len == (given.get("max_model_len") or 700)


@pytest.mark.parametrize(
    ("name", "gpu", "rows", "given", "expected"),
    [
        ("Llama-3.1-8B", "h100-80", 262_144, {}, 1024),
        ("Llama-3.1-8B", "h100-80", 131_072, {}, 512),  # 12 s less of generation, 16 s more of the start
        ("Llama-3.1-8B", "a100-80", 262_144, {}, 256),
        ("Qwen2.5-32B", "h100-80", 262_144, {}, 512),  # room for 847
        ("Llama-3.1-8B", "h100-80", 262_144, {"max_num_batched_tokens": 800}, 512),
        ("Llama-3.1-8B", "h100-80", 262_144, {"enforce_eager": True}, 512),
        ("Llama-3.1-8B", "h100-80", 262_144, {"enforce_eager": False}, 1024),
        ("Llama-3.1-8B", "h100-80", 262_144, {"gpu_memory_utilization": 0.9}, 512),
        ("Llama-3.1-8B", "h100-80", 262_144, {"compilation_config": {"cudagraph_capture_sizes": [8]}}, 512),
        ("Llama-3.1-8B", "h100-80", 262_144, {"compilation_config": {"cudagraph_mode": "NONE"}}, 512),
        ("Llama-3.1-8B", "h100-80", 262_144, {"compilation_config": {"pass_config": {}}}, 1024),
        ("Llama-3.2-1B", "h200", 10**6, {}, 512),  # Python decides, whatever runs at once
        ("Qwen3-30B-A3B", "h200", 4 * 4096, {}, 512),  # 10 s less, 18 s more
        ("Qwen3-30B-A3B", "h200", 4 * 8192, {}, 1024),
        ("Qwen3-30B-A3B", "b200", 4 * 262_144, {}, 1024),  # no more: 2048 are no faster
        ("Qwen3-30B-A3B", "80G", 4 * 262_144, {}, 512),  # of unknown speed
    ],
)
def test_very_many_short_rows_run_more_at_once_than_vllm_captures_graphs_for(
    name: str, gpu: str, rows: int, given: dict[str, Any], expected: int
) -> None:
    rows_of_384 = Workload(rows=rows, longest=384, prompt_tokens=256 * rows, output_tokens=128 * rows)
    before = problem_of(name, gpu, rows_of_384, **given)
    chosen = choose(Asked(nodes=1, gpus_per_node=4), None, before, solve)
    choice, after = with_more_sequences(chosen, before, given)
    assert after.settings.engine["max_num_seqs"] == after.settings.load.max_num_seqs == expected
    assert choice.fit and choice.fit.fits
    assert expected < 1024 or choice.fit.kv_tokens >= expected * 384 * ROOM
    told = [reason.split(":")[0] for reason in after.settings.reasons if reason.startswith("max_num_seqs")]
    assert told == ([] if expected == 256 else [f"max_num_seqs {expected}"])


def test_a_long_row_keeps_its_room_where_others_are_short() -> None:
    """1024 sequences to sample take memory: where the longest row has little to spare, they stay 512."""
    rows = Workload(rows=100_000, longest=32_767, prompt_tokens=500_000, output_tokens=1_000_000)
    before = problem_of("Gemma-3-27B", "h100-80", rows)
    chosen = choose(Asked(tp=1, pp=1, dp=1), None, before, solve)
    assert chosen.fit and chosen.fit.fits and chosen.fit.kv_tokens < 1.1 * 32_767
    assert with_more_sequences(chosen, before, {}) == (chosen, before)


def test_a_number_of_sequences_that_was_asked_for_stays_and_so_does_one_for_unknown_rows() -> None:
    many = Workload(rows=10**6, longest=384, prompt_tokens=256 * 10**6, output_tokens=128 * 10**6)
    for rows, engine in ((many, {"max_num_seqs": 512}), (None, {})):
        before = problem_of("Llama-3.1-8B", "h100-80", rows, **engine)
        chosen = choose(Asked(nodes=1, gpus_per_node=4), None, before, solve)
        assert with_more_sequences(chosen, before, engine) == (chosen, before)


def test_the_models_own_length_is_not_exceeded() -> None:
    rows = Workload(rows=1, longest=10**9, prompt_tokens=10, output_tokens=10)
    chosen = choose_settings(MODELS["GPT-2"], None, rows, {}, 1.0)
    assert ("max_model_len" in chosen.engine, chosen.load.max_model_len) == (False, 1024)


@pytest.mark.parametrize(
    "given",
    [
        {"max_model_len": 0}, {"max_model_len": "1k"}, {"max_num_seqs": -5}, {"max_num_batched_tokens": 2.5},
        {"gpu_memory_utilization": 1.5}, {"gpu_memory_utilization": "abc"}, {"kv_cache_memory_bytes": "10G"},
        {"dtype": "garbage"}, {"max_model_len": 10**6},
    ],
    ids=str,
)  # fmt: skip
def test_engine_options_that_vllm_refuses_are_refused_now(given: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="--engine"):
        choose_settings(MODELS["Llama-3.1-8B"], None, None, given, 1.0)


@pytest.mark.parametrize(
    "given",
    [{"cpu_offload_gb": 8}, {"max_model_len": -1}, {"quantization": "x"}],
    ids=str,
)
def test_options_that_are_not_modelled_are_said_to_be(given: dict[str, Any]) -> None:
    assert not_modelled({"dtype": "auto", "cpu_offload_gb": 0}) is None
    assert "memory is not checked" in (not_modelled(given) or "")


def test_experts_that_stay_whole_have_no_rule_for_their_width() -> None:
    """Qwen3-235B in fp8 blocks of 128 runs with TP=8 under expert parallelism only: 1536 / 8 is no multiple."""
    config = next(model.config for model in PUBLISHED if model.name == "Qwen3-235B-A22B")
    fp8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    shape = read_shape(config | fp8, "config.json")
    plain = PlanningProblem(shape, None, None, choose_settings(shape, None, None, {}, 1.0))
    assert "1536 / 8" in (plain.rule(8, 1) or "")
    assert msgspec.structs.replace(plain, shape=with_whole_experts(shape)).rule(8, 1) is None


def test_a_kv_cache_in_bytes_does_not_respect_the_utilization() -> None:
    small = problem_of("Llama-3.1-8B", "h100-80", kv_cache_memory_bytes=20 * GIB, gpu_memory_utilization=0.2)
    fit = choose(Asked(), None, small, solve).fit
    assert fit is not None
    assert (fit.fits, fit.kv) == (True, 20 * GIB)
    large = choose(
        Asked(tp=1, pp=1), None, problem_of("Llama-3.1-8B", "h100-80", kv_cache_memory_bytes=900 * GIB), solve
    )
    assert large.fit is not None
    assert not large.fit.fits
    assert "900.0 GiB was requested" in missing_memory(large.fit, problem_of("Llama-3.1-8B", "h100-80"))


@pytest.mark.parametrize(
    ("sampling", "rows", "expected"),
    [
        ({"max_tokens": 100}, [{}], (100, 100)),
        ({"max_tokens": 100, "n": 3}, [{}], (100, 300)),
        ({"max_tokens": 100}, [{}, {"max_tokens": 700}], (700, 800)),
        ({"max_tokens": None}, [{}], (None, 256)),
        ({"max_tokens": 100}, [{"max_tokens": None}, {}], (None, 356)),
        ({"max_tokens": 100}, [{"max_tokens": "512"}], (None, 256)),
    ],
)
def test_a_limit_that_cannot_be_told_is_no_bound(
    tmp_path: Path, sampling: dict[str, Any], rows: list[dict[str, Any]], expected: tuple[int | None, int]
) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"prompt": [1, 2], "sampling": row}) + "\n" for row in rows))
    found = measure_workload(Intake(str(path)), sampling, 0, whole=True)
    longest, outputs = expected
    assert found.longest == (None if longest is None else longest + 2)
    assert found.output_tokens == outputs


def test_experts_over_all_gpus_fit_where_each_gpu_has_all_of_the_attention() -> None:
    wanted = problem_of("DeepSeek-V3", "h200", of_rows(20_000, 1000, 1000))
    choice = choose(Asked(nodes=1, gpus_per_node=8, spreads=True), None, wanted, solve)
    layout, fit = choice.layout, choice.fit
    assert (layout.tp, layout.pp, layout.attention_dp, layout.dp) == (1, 1, 8, 1)
    assert fit is not None and fit.fits
    assert fit.weights == pytest.approx(671e9, rel=0.02), "the whole model, once"
    assert fit.weights / 8 < fit.rank_weights < fit.weights / 6
    assert "in each lane" in choice.reasons[-1]


def test_lanes_over_ever_more_gpus_until_they_are_busy() -> None:
    wanted = problem_of("DeepSeek-V3", "h100-80", of_rows(20_000, 1000, 1000))
    layout = choose(Asked(spreads=True), 8, wanted, solve).layout
    assert (layout.nodes, layout.attention_dp > 1, layout.has_tp_inside_nodes) == (2, True, True)


def test_lanes_are_as_many_as_the_nodes_that_were_given_hold() -> None:
    """Also where nobody says how many GPUs a node has."""
    layout = choose(Asked(nodes=2, spreads=True), None, problem_of("DeepSeek-V3", "h200"), solve).layout
    assert (layout.nodes, layout.dp) == (2, 1)
    assert layout.gpus_per_node >= 4


def test_lanes_take_fewer_tokens_a_step_than_one() -> None:
    """All lanes' tokens come to every rank: 8 x 16,384 of them need 28 GiB of workspaces on an H100."""
    wanted, layouts = problem_of("DeepSeek-V3", "h100-80"), {}
    for lanes in (1, 2, 4, 64):
        layout = Layout(1, 4 * lanes, 4 * lanes, 4, 1, 1, attention_dp=lanes)
        layouts[lanes] = wanted.settings_in(layout)
    tokens = {lanes: settings.load.max_num_batched_tokens for lanes, settings in layouts.items()}
    assert tokens == {1: 16_384, 2: 8_192, 4: 4_096, 64: 512}
    assert layouts[4].engine["max_num_batched_tokens"] == 4_096
    assert "max_num_batched_tokens 4096: those of 4 lanes come to every rank" in layouts[4].reasons
    given = problem_of("DeepSeek-V3", "h100-80", max_num_batched_tokens=16_384)
    assert given.settings_in(Layout(1, 8, 8, 1, 1, 1, attention_dp=8)).load.max_num_batched_tokens == 16_384


def test_the_fullest_rank_has_whole_experts() -> None:
    """256 experts over 48 ranks: 6 each, on some 5."""
    wanted = problem_of("DeepSeek-V3", "b200")
    weights = {}
    for ranks in (43, 48, 51):
        fit = wanted.fit(Layout(1, ranks, ranks, 1, 1, 1, attention_dp=ranks))
        assert fit is not None
        weights[ranks] = fit.rank_weights
    assert weights[43] == weights[48] == weights[51]


@pytest.mark.parametrize(
    ("asked", "cuts", "said"),
    [
        (Asked(nodes=32, gpus_per_node=8, attention_dp=256, tp=1), False, None),
        (Asked(nodes=64, gpus_per_node=8, attention_dp=512, tp=1), False, "512 ranks, but the model has 256 experts"),
        (Asked(nodes=4, gpus_per_node=6, attention_dp=24, tp=1), True, "size 2048 is not divisible by TP × attention"),
        (Asked(nodes=2, gpus_per_node=8, attention_dp=16, tp=1), True, None),
    ],
)
def test_experts_that_cannot_be_divided_are_refused(asked: Asked, cuts: bool, said: str | None) -> None:
    wanted = msgspec.structs.replace(problem_of("DeepSeek-V3", "h200"), cuts_experts=cuts)
    if said is None:
        assert choose(asked, None, wanted, solve).layout.attention_dp == asked.attention_dp
        return
    with pytest.raises(LayoutError, match=said):
        choose(asked, None, wanted, solve)


def test_lanes_get_pp_only_where_both_are_asked_for() -> None:
    """They have never been run together."""
    wanted = problem_of("DeepSeek-V3", "h100-80")
    alone = choose(Asked(nodes=2, gpus_per_node=8, attention_dp=2), None, wanted, solve)
    assert (alone.layout.pp, alone.layout.attention_dp) == (1, 2)
    both = choose(Asked(nodes=2, gpus_per_node=8, attention_dp=2, pp=2), None, wanted, solve)
    assert (both.layout.pp, both.layout.attention_dp) == (2, 2)


@pytest.mark.parametrize(("gpu", "told"), [("h200", True), (None, False)])
def test_what_lanes_give_is_estimated_with_their_exchange(gpu: str | None, told: bool) -> None:
    """vLLM alone on two H200: lanes 1.58 times as fast as TP=2, and no slower than two replicas."""
    wanted = problem_of("Qwen3-30B-A3B", gpu, of_rows(8192, 128))
    layouts = [solve(Asked(1, 2, tp, 1, dp, lanes))[0] for tp, dp, lanes in ((2, 1, 1), (1, 2, 1), (1, 1, 2))]
    tp, replicas, lanes = (wanted.rough_seconds(layout, wanted.fit(layout)) for layout in layouts)
    if not told:
        assert tp is replicas is lanes is None
        return
    assert tp and replicas and lanes
    assert 1.4 < tp / lanes < 2
    assert 1 < replicas / lanes < 1.3
