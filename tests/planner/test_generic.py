"""Models whose class is not in the table: read as other decoders, laid out by the size of their files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.models.count import count_parameters
from vllm_hpc.planner.models.fields import NotCheckedError
from vllm_hpc.planner.unknown_model import Size, fill_in
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.solve_layout import Asked

# What the config.json of published models says, and their parameters in billions by their cards.
PUBLISHED: list[tuple[str, float, float, dict[str, Any]]] = [
    (
        "GLM-4.5", 355, 0.03,
        {"architectures": ["Glm4MoeForCausalLM"], "hidden_size": 5120, "intermediate_size": 12288,
         "num_hidden_layers": 92, "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
         "vocab_size": 151552, "n_routed_experts": 160, "num_experts_per_tok": 8, "moe_intermediate_size": 1536,
         "n_shared_experts": 1, "first_k_dense_replace": 3, "attention_bias": True},
    ),
    (
        "Llama-4-Scout", 109, 0.03,
        {"architectures": ["Llama4ForConditionalGeneration"], "text_config": {
            "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_hidden_layers": 48,
            "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 202048,
            "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
            "n_shared_experts": 1}},
    ),
    (
        "MiniMax-M2", 230, 0.03,
        {"architectures": ["MiniMaxM2ForCausalLM"], "hidden_size": 3072, "intermediate_size": 1536,
         "num_hidden_layers": 62, "num_attention_heads": 48, "num_key_value_heads": 8, "head_dim": 128,
         "vocab_size": 200064, "num_local_experts": 256, "num_experts_per_tok": 8},
    ),
    (
        "DeepSeek-V3.2", 671, 0.02,
        {"architectures": ["DeepseekV32ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432,
         "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "vocab_size": 129280,
         "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
         "v_head_dim": 128, "n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
         "n_shared_experts": 1, "first_k_dense_replace": 3},
    ),
    (
        "Qwen3-Next-80B-A3B", 80, 0.05,
        {"architectures": ["Qwen3NextForCausalLM"], "hidden_size": 2048, "intermediate_size": 5120,
         "num_hidden_layers": 48, "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256,
         "vocab_size": 151936, "num_experts": 512, "num_experts_per_tok": 10, "moe_intermediate_size": 512,
         "shared_expert_intermediate_size": 512, "decoder_sparse_step": 1, "full_attention_interval": 4},
    ),
    (
        "ChatGLM3-6B", 6.24, 0.03,
        {"architectures": ["ChatGLMModel"], "hidden_size": 4096, "ffn_hidden_size": 13696, "num_layers": 28,
         "num_attention_heads": 32, "multi_query_attention": True, "multi_query_group_num": 2, "kv_channels": 128,
         "padded_vocab_size": 65024, "add_qkv_bias": True},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "billions", "off", "config"), PUBLISHED, ids=[one[0] for one in PUBLISHED])
def test_parameters_are_about_those_of_the_card(name: str, billions: float, off: float, config: dict[str, Any]) -> None:
    shape = read_shape(config, name)
    assert not shape.is_exact
    assert count_parameters(shape) == pytest.approx(billions * 1e9, rel=off)


@pytest.mark.parametrize(
    ("keys", "without_cache"),
    [
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, 3),
        ({"layers_block_type": ["mamba", "attention", "mamba", "hybrid"]}, 2),
        ({"block_types": ["recurrent", "attention"]}, 2),
        ({"attn_type_list": [0, 0, 0, 1]}, 3),
        ({"hybrid_override_pattern": "M-M*"}, 3),
        ({"attn_layer_indices": [1]}, 3),
        ({"linear_attn_config": {"full_attn_layers": [1, 3]}}, 2),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, 2),
        ({"full_attention_interval": 4}, 3),
        ({}, 0),
    ],
    ids=str,
)
def test_layers_with_a_state_have_no_kv_cache(keys: dict[str, Any], without_cache: int) -> None:
    shape = read_shape({**SMALL, **keys}, "config.json")
    assert (shape.layers, shape.state_layers, shape.full_layers) == (4, without_cache, 4 - without_cache)


SMALL: dict[str, Any] = {
    "architectures": ["NewForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip
HOSTILE: list[dict[str, Any]] = [
    {"hidden_size": "256"}, {"hidden_size": -1}, {"hidden_size": 0}, {"hidden_size": 10**12}, {"hidden_size": None},
    {"num_hidden_layers": [4]}, {"num_hidden_layers": 2.5}, {"num_attention_heads": 0}, {"num_attention_heads": 7},
    {"num_key_value_heads": 3}, {"vocab_size": {}}, {"num_experts": 8}, {"num_experts": 8, "num_experts_per_tok": 9},
    {"num_experts": [8, 8], "num_experts_per_tok": 2}, {"layer_types": "attention"}, {"layer_types": [1, 2]},
    {"layer_types": ["mamba"] * 4}, {"attn_layer_period": 2, "attn_layer_offset": 5}, {"kv_lora_rank": 64},
    {"qk_nope_head_dim": 64}, {"linear_attn_config": []}, {"text_config": []}, {"sliding_window": "x"},
    {"attention_bias": "maybe"}, {"rope_scaling": 3}, {"intermediate_size": 1e400}, {"model_type": "mamba2"},
]  # fmt: skip


@pytest.mark.parametrize("changes", HOSTILE, ids=str)
def test_a_hostile_config_is_refused_in_a_line_at_most(changes: dict[str, Any], desk: Path, run_cli: Cli) -> None:
    try:
        read_shape({**SMALL, **changes}, "config.json")
    except ModelError as error:
        assert "\n" not in str(error)
    folder = make_folder(desk / "odd")
    (folder / "config.json").write_text(json.dumps({**SMALL, **changes}))
    outcome = run_cli("plan", "odd", "--scheduler", "slurm", "--gpu", "h100-80")
    assert outcome.code in (0, 1, 2)
    assert outcome.code == 0 or len(outcome.err.strip().splitlines()) <= 1, outcome.err
    assert "Traceback" not in outcome.err


def test_a_model_without_attention_is_not_checked() -> None:
    with pytest.raises(NotCheckedError, match="has no attention"):
        read_shape({**SMALL, "architectures": ["Mamba2ForCausalLM"]}, "config.json")


@pytest.mark.parametrize(
    ("weights", "room", "asked", "capacity", "expected"),
    [
        (716, 60, Asked(), 8, (8, 2)),
        (716, 107, Asked(nodes=1), 8, (8, 1)),
        (20, 60, Asked(nodes=1, gpus_per_node=8), None, (1, 1)),
        (100, 60, Asked(), 4, (2, 1)),
        (300, 60, Asked(), 6, (4, 2)),
        (None, 60, Asked(nodes=1), 8, (8, 1)),
        (None, None, Asked(gpus_per_node=4), 8, (4, 1)),
        (None, None, Asked(), None, (None, None)),
        (716, 60, Asked(dp=2), 8, (None, None)),
        (716, 60, Asked(tp=1), 8, (1, None)),
    ],
    ids=str,
)  # fmt: skip
def test_a_model_of_known_size_never_gets_too_few_gpus(
    weights: int | None, room: int | None, asked: Asked, capacity: int | None, expected: tuple[int | None, int | None]
) -> None:
    size = Size(weights and weights * GIB, room and room * GIB)
    filled, why = fill_in(asked, size, capacity)
    assert (filled.tp, filled.pp) == expected
    assert bool(why) is (filled != asked)
