"""Models whose class is not in the table: which of their layers have a KV cache, and hostile keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.models.fields import NotCheckedError
from vllm_hpc.spec.errors import ModelError


@pytest.mark.parametrize(
    ("keys", "without_cache"),
    [
        ({"layer_types": ["linear_attention"] * 3 + ["full_attention"]}, 3),
        ({"layers_block_type": ["mamba", "attention", "mamba", "hybrid"]}, 2),
        ({"block_types": ["recurrent", "attention"]}, 2),
        ({"attn_type_list": [0, 0, 0, 1]}, 3),
        ({"hybrid_override_pattern": "M-M*"}, 3),
        ({"attn_layer_indices": [1]}, 3),
        ({"linear_attn_config": {"full_attn_layers": [1, 3], "num_heads": 8, "head_dim": 32}}, 2),
        ({"attn_layer_period": 2, "attn_layer_offset": 1}, 2),
        ({"full_attention_interval": 4}, 3),
        ({}, 0),
    ],
    ids=str,
)
def test_layers_with_a_state_have_no_kv_cache(keys: dict[str, Any], without_cache: int) -> None:
    shape = read_shape({**SMALL, **STATE, **keys}, "config.json")
    assert (shape.layers, shape.full_layers) == (4, 4 - without_cache)


SMALL: dict[str, Any] = {
    "architectures": ["NewForCausalLM"], "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip
# The size of a state, in the words of Mamba 2.
STATE = {"mamba_num_heads": 8, "mamba_head_dim": 64, "ssm_state_size": 16, "n_groups": 1, "conv_kernel": 4, "expand": 2}
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


def test_a_model_whose_states_are_not_told_is_not_checked() -> None:
    with pytest.raises(NotCheckedError, match="nothing tells which layers of Mamba2ForCausalLM keep a state"):
        read_shape({**SMALL, "architectures": ["Mamba2ForCausalLM"]}, "config.json")
