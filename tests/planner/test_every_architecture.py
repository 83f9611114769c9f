"""Models of every class: what is read of their config.json, against what was published and what transformers builds.

cases/published_models.jsonl has the keys of the models' own config.json that decide memory. ``parameters`` is the total
of the published safetensors without heads for multi-token prediction, or the number on the model's card. ``source``
says where both were looked up, and begins with how far the number is independent of the config.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.marks import beside_vllm
from tests.planner.test_odd_configs import look
from tests.published_models import PUBLISHED, SMALL_CONFIG
from vllm_hpc.planner.kv_cache import kv_bytes_per_token, state_bytes
from vllm_hpc.planner.load import Load
from vllm_hpc.planner.memory import fit_on_gpu
from vllm_hpc.planner.models.config import read_shape
from vllm_hpc.planner.models.count import active_parameters, count_parameters, parameter_range
from vllm_hpc.planner.models.fields import NotCheckedError
from vllm_hpc.planner.models.shape import Shape
from vllm_hpc.planner.parallelism import allowed_tp
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.gpus import GIB

_LINES = (Path(__file__).parent / "cases" / "published_models.jsonl").read_text().splitlines()[1:]
MODELS: dict[str, dict[str, Any]] = {one["name"]: one for one in map(json.loads, _LINES)}
CLOSE, FAR = 0.01, 0.015
LOAD = Load(max_model_len=8192, max_num_seqs=256, max_num_batched_tokens=8192)


def shape_of(name: str) -> Shape:
    return read_shape(MODELS[name]["config"], name)


def off(name: str) -> float:
    """How far off the count of a published model is."""
    counted = count_parameters(shape_of(name))
    assert counted is not None
    return abs(counted / float(MODELS[name]["parameters"]) - 1)


@pytest.mark.parametrize("name", MODELS)
def test_the_parameters_are_as_published(name: str) -> None:
    assert off(name) < FAR
    low, high = parameter_range(shape_of(name)) or (0, 0)
    assert 0.99 * low <= MODELS[name]["parameters"] <= 1.01 * high


def test_the_table_is_long_and_nearly_all_of_it_is_within_one_percent() -> None:
    assert len(MODELS) >= 120
    assert sum(off(name) < CLOSE for name in MODELS) >= len(MODELS) - 2
    assert len({one["config"]["architectures"][0] for one in MODELS.values()}) >= 80
    assert not {one.name for one in PUBLISHED} & set(MODELS)
    totals = [name for name, one in MODELS.items() if one["source"].startswith("[published total")]
    assert len(totals) >= 100
    assert sum(off(name) < CLOSE for name in totals) >= 100


# Model -> layers with a growing KV cache, with a window, with a state; KiB of KV cache for a token; KiB of state.
LAYERS: dict[str, tuple[int, int, int, float, float]] = {
    # 92 layers * 2 * 8 heads * 128 * 2 bytes
    "GLM-4.5": (92, 0, 0, 368.0, 0),
    # a latent of 512 + 64, and an indexer's key of 128 bytes with its scale
    "DeepSeek-V3.2": (61, 0, 0, 61 * (2 * 576 + 132) / 1024, 0),
    # every fourth layer: 2 * 2 * 256; states of 32 * 128 * 128 and three columns of 8192, in 16 bits
    "Qwen3-Coder-Next-80B-A3B": (12, 0, 36, 12 * 4 * 256 * 2 / 1024, 36 * 2 * (32 * 128 * 128 + 3 * 8192) / 1024),
    # the latent in 7 layers; a float32 state of 32 * 128 * 128 in 20
    "Kimi-Linear-48B-A3B": (7, 0, 20, 7 * 2 * 576 / 1024, 20 * (4 * 32 * 128 * 128 + 2 * 3 * 3 * 4096) / 1024),
    "Nemotron-3-Nano-30B-A3B": (6, 0, 23, 6 * 2 * 2 * 128 * 2 / 1024, 23 * 2 * (4096 * 128 + 3 * 6144) / 1024),
    "Jamba-v0.1": (4, 0, 28, 4 * 2 * 8 * 128 * 2 / 1024, 28 * 2 * (8192 * 16 + 3 * 8192) / 1024),
    "Falcon-H1-7B": (44, 0, 44, 44 * 2 * 2 * 128 * 2 / 1024, 44 * 2 * (3072 * 256 + 3 * 3584) / 1024),
    "LFM2-1.2B": (6, 0, 10, 6 * 2 * 8 * 64 * 2 / 1024, 10 * 2 * 2 * 2048 / 1024),
    "mamba-2.8b": (0, 0, 64, 0, 64 * 2 * (5120 * 16 + 3 * 5120) / 1024),
    "Llama-4-Scout": (12, 36, 0, 192.0, 0),
    # keys of 192 and values of 128: 4 heads in 9 layers, 8 in 39 with a window
    "MiMo-V2-Flash": (9, 39, 0, (9 * 4 + 39 * 8) * 320 * 2 / 1024, 0),
    "EXAONE-4.0-32B": (16, 48, 0, 256.0, 0),
    "LongCat-Flash": (56, 0, 0, 56 * 2 * 576 / 1024, 0),
    "Zamba2-2.7B": (9, 0, 54, 9 * 2 * 32 * 160 * 2 / 1024, 54 * 2 * (5120 * 64 + 3 * 5248) / 1024),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_with_kv_cache_windows_and_states_are_told_apart(name: str) -> None:
    shape = shape_of(name)
    full, window, state, kv_kib, state_kib = LAYERS[name]
    assert (shape.full_layers, shape.window_layers) == (full, window)
    assert (shape.state.layers if shape.state else 0) == state
    assert kv_bytes_per_token(shape) / 1024 == pytest.approx(kv_kib)
    assert state_bytes(shape) / 1024 == pytest.approx(state_kib)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("GLM-4.5", 32), ("Qwen3-Coder-480B-A35B", 35), ("Step-3.5-Flash", 11), ("MiniMax-M2", 10),
     ("Nemotron-3-Nano-30B-A3B", 3.2), ("Kimi-Linear-48B-A3B", 3), ("granite-4.0-h-small", 9), ("LFM2-8B-A1B", 1.5)],
)  # fmt: skip
def test_the_parameters_of_a_token_are_about_those_of_the_card(name: str, billions: float) -> None:
    assert active_parameters(shape_of(name)) / 1e9 == pytest.approx(billions, rel=0.12)


@pytest.mark.parametrize(
    ("name", "tokens"),
    [("llava-1.5-7b", (576, 576)), ("Qwen2.5-VL-7B", (4, 16384)), ("Qwen3-VL-8B", (64, 16384)),
     ("InternVL3-8B", (256, 256 * 13)), ("paligemma-3b-pt-224", (256, 256)), ("Llama-4-Scout", (144, 144 * 17)),
     ("Mistral-Small-3.1-24B", (1, 55 * 55)), ("whisper-large-v3", None), ("Qwen3-14B", None)],
)  # fmt: skip
def test_the_tokens_of_an_image_are_told(name: str, tokens: tuple[int, int] | None) -> None:
    encoder = shape_of(name).encoder
    assert (encoder.image_tokens if encoder else None) == tokens


def test_states_are_held_for_each_sequence_and_split_by_tp() -> None:
    shape, gpu = shape_of("Qwen3-Coder-Next-80B-A3B"), int(139.8 * GIB)
    two, four = (fit_on_gpu(shape, None, LOAD, tp, 1, gpu) for tp in (2, 4))
    assert four.state == pytest.approx(two.state / 2)
    assert two.room(8192) == pytest.approx(two.sequences, rel=0.01)
    # A short sequence takes its state, too: far from 64 times as many fit.
    assert two.room(128) < 10 * two.room(8192)
    mamba = fit_on_gpu(shape_of("mamba-2.8b"), None, LOAD, 1, 1, gpu)
    assert mamba.room(128) == mamba.room(8192) > 256


def test_tp_is_what_the_states_can_be_split_by() -> None:
    assert allowed_tp(shape_of("Qwen3-Coder-Next-80B-A3B"), most=16) == [1, 2, 4, 8, 16]
    assert allowed_tp(shape_of("Nemotron-Nano-9B-v2"), most=16) == [1, 2, 4, 8]
    assert allowed_tp(shape_of("granite-4.0-h-tiny"), most=16) == [1, 2, 4]
    assert 8 in allowed_tp(shape_of("mamba-2.8b"), most=16)


@pytest.mark.parametrize("name", ["GLM-4.5", "Kimi-K2", "MiniMax-M2", "Llama-4-Maverick", "Step-3.5-Flash"])
def test_no_replica_is_smaller_than_the_model(tmp_path: Path, name: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MODELS[name]["config"]))
    for gpu in ("h100-80", "h200", None):
        found = plan_only(str(tmp_path), scheduler="slurm", gpu=gpu)
        room = {"h100-80": 79.2, "h200": 139.8, None: 80}[gpu] * GIB
        assert found.layout.replica_size * room > 2 * MODELS[name]["parameters"], (gpu, found.layout)
        assert found.fits is (True if gpu else None)


def test_the_size_of_an_index_comes_before_a_count(tmp_path: Path) -> None:
    index = {"metadata": {"total_size": 716_670_345_216}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    known = look(tmp_path, MODELS["GLM-4.5"]["config"])
    assert known.weights is not None
    assert known.weights.loaded_bytes(2) == 716_670_345_216
    assert "the size of its weights is that of its files or its index" in " ".join(known.notes)


def tiny(**changes: Any) -> dict[str, Any]:
    return SMALL_CONFIG | {"architectures": ["ZebraForCausalLM"], "model_type": "zebra"} | changes


HOSTILE: dict[str, dict[str, Any]] = {
    "text for a number": tiny(num_hidden_layers="16"),
    "negative": tiny(num_attention_heads=-4),
    "huge": tiny(hidden_size=10**30),
    "no hidden size": tiny(hidden_size=None),
    "zero heads": tiny(num_attention_heads=0),
    "types shorter than layers": tiny(layer_types=["full_attention"]),
    "empty types": tiny(layer_types=[]),
    "types of numbers": tiny(layer_types=[1, 2]),
    "no experts": tiny(num_experts=0, num_experts_per_tok=0),
    "one expert": tiny(n_routed_experts=1),
    "experts of text": tiny(num_experts="many"),
    "more per token than there are": tiny(num_experts=8, num_experts_per_tok=99, moe_intermediate_size=64),
    "a state without a size": tiny(layer_types=["mamba"] * 16),
    "a state of nothing": tiny(attn_layer_period=2, mamba_d_state=0, mamba_n_heads=0),
    "a window of text": tiny(sliding_window="all", layer_types=["sliding_attention"] * 16),
    "nested nonsense": tiny(text_config={"text_config": {"text_config": 3}}),
    "a config that is a list": tiny(vision_config=[1, 2]),
    "a tower of nothing": tiny(vision_config={}),
    "a tower of text": tiny(vision_config={"hidden_size": "wide", "num_hidden_layers": "deep"}),
    "a pattern of other letters": tiny(hybrid_override_pattern="XYZ"),
    "a pattern that is a list": tiny(sliding_window_pattern=[1, 2], sliding_window=128),
    "latents of nothing": tiny(kv_lora_rank=0, qk_rope_head_dim=0),
    "periods of zero": tiny(attn_layer_period=0, full_attention_interval=0, num_experts=4, expert_layer_period=0),
    "an enumeration of words": tiny(num_experts=4, moe_layers_enum="a,b,,4", moe_intermediate_size=64),
    "a ratio of zero": tiny(vision_config={"hidden_size": 8, "depth": 2, "patch_size": 14}, downsample_ratio=0),
    "infinity": tiny(partial_rotary_factor=float("inf"), intermediate_size=float("inf")),
    "ten thousand layers": tiny(num_hidden_layers=10_000),
    "linear attention of text": tiny(linear_attn_config={"num_heads": "x", "full_attn_layers": "all"}),
    "more shared than layers": tiny(num_kv_shared_layers=99),
    "an attention table of text": tiny(attn_config="flash", ffn_config="x"),
}  # fmt: skip


@pytest.mark.parametrize("config", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_config_is_planned_or_refused_in_one_line(tmp_path: Path, config: dict[str, Any]) -> None:
    known = look(tmp_path, config)
    assert all(note.isprintable() and len(note) < 500 for note in known.notes)
    if known.shape is None:
        assert known.is_unsized
        assert known.notes[-1].startswith("memory is not checked: ")
    if config["num_hidden_layers"] == 10_000:  # takes the planner seconds, as in the table's classes
        return
    try:
        json.dumps(plan_only(str(tmp_path), scheduler="slurm", gpu="h100-80").to_json())
    except ModelError as refusal:
        assert str(refusal).isprintable()


@beside_vllm
def test_every_class_of_vllm_gets_a_shape() -> None:
    from vllm.model_executor.models import registry

    names = {*registry._TEXT_GENERATION_MODELS, *registry._MULTIMODAL_MODELS}
    assert len(names) >= 200
    for name in names:
        try:
            assert count_parameters(read_shape(SMALL_CONFIG | {"architectures": [name]}, name))
        except NotCheckedError:  # it needs keys of its own, and is laid out by the size of its files without them
            own = ("Deepseek", "Mixtral", "KimiK2", "Olmoe", "GptOss", "Qwen")
            assert name.startswith(own) or "Mamba" in name, name


class _Built(NamedTuple):
    config: dict[str, Any]
    parameters: int


def build(name: str) -> _Built:
    """What transformers builds of a class with its own defaults, without weights."""
    import torch
    import transformers

    architecture = getattr(transformers, name)
    config = architecture.config_class()
    with torch.device("meta"):
        parameters = sum(one.numel() for one in architecture._from_config(config).parameters())
    return _Built({**config.to_dict(), "architectures": [name]}, parameters)


# Built in a tenth of a second; the others below take up to two.
QUICK = (
    "Ernie4_5ForCausalLM",
    "MambaForCausalLM",
    "GPTJForCausalLM",
    "NemotronHForCausalLM",
    "WhisperForConditionalGeneration",
)
SLOW = (
    "AfmoeForCausalLM", "ApertusForCausalLM", "AXK1ForCausalLM", "BloomForCausalLM", "Cohere2MoeForCausalLM",
    "DeepseekV32ForCausalLM", "DeepseekV4ForCausalLM", "Ernie4_5_MoeForCausalLM", "Exaone4ForCausalLM",
    "ExaoneMoeForCausalLM", "FalconMambaForCausalLM", "FalconH1ForCausalLM", "Gemma3nForCausalLM", "Gemma4ForCausalLM",
    "Glm4ForCausalLM", "Glm4MoeForCausalLM", "Glm4MoeLiteForCausalLM", "GlmMoeDsaForCausalLM", "GraniteMoeForCausalLM",
    "GraniteMoeHybridForCausalLM", "GraniteMoeSharedForCausalLM", "HYV3ForCausalLM", "HyperCLOVAXForCausalLM",
    "JambaForCausalLM", "KimiLinearForCausalLM", "Lfm2ForCausalLM", "LagunaForCausalLM", "Llama4ForCausalLM",
    "Mamba2ForCausalLM", "MiniCPM3ForCausalLM", "MiniMaxM2ForCausalLM", "MiMoV2FlashForCausalLM",
    "OlmoHybridForCausalLM", "Qwen3NextForCausalLM", "Qwen3_5ForCausalLM", "Qwen3_5MoeForCausalLM", "Zamba2ForCausalLM",
    "AriaForConditionalGeneration", "AudioFlamingo3ForConditionalGeneration", "Cohere2VisionForConditionalGeneration",
    "Ernie4_5_VLMoeForConditionalGeneration", "Glm4vForConditionalGeneration", "Glm4vMoeForConditionalGeneration",
    "Lfm2VlForConditionalGeneration", "Llama4ForConditionalGeneration", "LlavaForConditionalGeneration",
    "LlavaNextForConditionalGeneration", "LlavaOnevisionForConditionalGeneration",
    "PaddleOCRVLForConditionalGeneration",
    "PaliGemmaForConditionalGeneration", "Qwen2AudioForConditionalGeneration", "Qwen3ASRForConditionalGeneration",
    "Qwen3VLForConditionalGeneration", "Qwen3_5ForConditionalGeneration", "Qwen3_5MoeForConditionalGeneration",
    "VoxtralForConditionalGeneration",
)  # fmt: skip


@beside_vllm
@pytest.mark.parametrize("name", QUICK)
def test_transformers_builds_as_many(name: str) -> None:
    built = build(name)
    assert count_parameters(read_shape(built.config, name)) == pytest.approx(built.parameters, rel=CLOSE)


@pytest.mark.full
@beside_vllm
@pytest.mark.parametrize("name", SLOW)
def test_transformers_builds_as_many_of_every_class(name: str) -> None:
    began = time.monotonic()
    built = build(name)
    assert count_parameters(read_shape(built.config, name)) == pytest.approx(built.parameters, rel=CLOSE), (
        time.monotonic() - began
    )
