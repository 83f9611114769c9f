"""Whether a model can be cut: our rules against vLLM's own checks and layers, without weights."""

from __future__ import annotations

import contextlib
import functools
import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.marks import beside_vllm
from tests.published_models import PUBLISHED, SMALL_CONFIG, Published
from vllm_hpc.planner.models.config import Shape, read_shape
from vllm_hpc.planner.parallelism import allowed_tp, tp_obstacles, why_not

SIZES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64)
# Layers that we hold against vLLM's own; it builds experts and MLA out of the same parts.
EXPERTS = {"n_routed_experts", "num_experts", "num_local_experts"}
PLAIN = [model for model in PUBLISHED if not EXPERTS & set(model.config)]
# One of each architecture; without those that need a processor from the Hub beside config.json.
ARCHITECTURES = {model.config["architectures"][0]: model for model in PUBLISHED if "vision_config" not in model.config}


def names(model: Published) -> str:
    return model.name


@functools.cache
def vllm_config() -> Any:
    from vllm.config import VllmConfig

    return VllmConfig()


def vllm_cuts_layers(shape: Shape, tp: int) -> bool:
    """Whether vLLM's own parallel layers can be made for a rank of ``tp``."""
    import torch
    from vllm.config import set_current_vllm_config
    from vllm.model_executor import parameter
    from vllm.model_executor.layers import linear, vocab_parallel_embedding
    from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear, RowParallelLinear
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    with contextlib.ExitStack() as stack:
        for module in (linear, vocab_parallel_embedding, parameter):
            for name, value in (("world_size", tp), ("rank", 0)):
                function = f"get_tensor_model_parallel_{name}"
                stack.enter_context(mock.patch.object(module, function, lambda value=value: value))
        stack.enter_context(set_current_vllm_config(vllm_config()))
        stack.enter_context(torch.device("meta"))
        try:
            QKVParallelLinear(shape.hidden, shape.head_dim, shape.heads, shape.kv_heads)
            RowParallelLinear(shape.heads * shape.head_dim, shape.hidden)
            MergedColumnParallelLinear(shape.hidden, [shape.width] * 2)
            RowParallelLinear(shape.width, shape.hidden)
            VocabParallelEmbedding(shape.vocabulary, shape.hidden)
        except (AssertionError, ValueError, ZeroDivisionError):
            return False
    return True


@beside_vllm
@pytest.mark.parametrize("model", PLAIN, ids=names)
def test_a_tp_size_is_allowed_where_vllm_can_build_the_layers(model: Published) -> None:
    shape = read_shape(model.config, model.name)
    ours = {tp for tp in SIZES if tp <= shape.heads and not tp_obstacles(shape, tp)}
    assert ours == {tp for tp in SIZES if tp <= shape.heads and vllm_cuts_layers(shape, tp)}


@beside_vllm
@settings(max_examples=60, deadline=None)
@given(
    heads=st.integers(1, 48), groups=st.integers(1, 8), width=st.integers(1, 40), vocabulary=st.integers(1, 4000),
    tp=st.integers(1, 24),
)  # fmt: skip
def test_any_shape_is_cut_as_vllm_cuts_it(heads: int, groups: int, width: int, vocabulary: int, tp: int) -> None:
    kv_heads = max(1, heads // groups)
    assume(heads % kv_heads == 0)
    config = SMALL_CONFIG | {
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 8, "intermediate_size": 8 * width,
        "vocab_size": vocabulary,
    }  # fmt: skip
    shape = read_shape(config, "config.json")
    assert (not tp_obstacles(shape, tp)) == vllm_cuts_layers(shape, tp)


@beside_vllm
@pytest.mark.parametrize("model", ARCHITECTURES.values(), ids=names)
def test_vllms_own_verification_agrees(model: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ModelConfig.verify_with_parallel_config checks heads and whether the model takes PP at all."""
    from vllm.config import ModelConfig, ParallelConfig
    from vllm.model_executor.models import registry

    # vLLM would import itself anew for each model, to keep CUDA out of this process: 10 s.
    monkeypatch.setattr(registry, "_run_in_subprocess", lambda look: look())
    config = {key: value for key, value in model.config.items() if key != "quantization_config"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    theirs = ModelConfig(model=str(tmp_path), skip_tokenizer_init=True, dtype="float32", max_model_len=64)
    shape = read_shape(config, model.name)
    assert theirs.get_total_num_hidden_layers() == shape.layers
    assert shape.mla or theirs.get_total_num_kv_heads() == shape.kv_heads
    assert shape.mla or theirs.get_head_size() == shape.head_dim
    for tp in SIZES:
        parallel = ParallelConfig(tensor_parallel_size=tp, pipeline_parallel_size=2, distributed_executor_backend="mp")
        refused = False
        try:
            theirs.verify_with_parallel_config(parallel)
        except (ValueError, NotImplementedError):
            refused = True
        if refused:
            assert tp_obstacles(shape, tp), f"vLLM refuses TP={tp}, PP=2"


def test_a_refusal_names_the_numbers_and_what_works() -> None:
    smollm = next(model for model in PUBLISHED if model.name == "SmolLM2-135M")
    shape = read_shape(smollm.config, smollm.name)
    message = why_not(shape, 2, 1)
    assert message is not None
    assert "9 attention heads are not divisible by 2" in message
    assert message.endswith("TP can be 1 or 3")
    assert "1536 is not divisible by 9" in (why_not(shape, 9, 1) or "")
    assert "PP can be 1 to 30" in (why_not(shape, 1, 31) or "")
    assert why_not(shape, 3, 30) is None


@pytest.mark.parametrize(
    ("name", "quantization", "allowed"),
    [
        ("DeepSeek-V3", None, [1, 2, 4, 8, 16]),  # 18432 / 32 = 576 is not a multiple of blocks of 128
        ("Qwen2.5-7B", {"quant_method": "awq", "bits": 4, "group_size": 128}, [1, 2, 4]),
        ("Qwen2.5-72B", {"quant_method": "gptq", "bits": 4, "group_size": 128}, [1]),  # 29568 / 2 is 115.5 groups
    ],
)
def test_a_quantised_model_is_cut_between_groups(name: str, quantization: Any, allowed: list[int]) -> None:
    config = next(model for model in PUBLISHED if model.name == name).config
    config = config | ({"quantization_config": quantization} if quantization else {})
    assert allowed_tp(read_shape(config, name)) == allowed
