"""Translates Mistral's own params.json into the keys of a config.json.

As in vLLM 0.32 (transformers_utils/configs/mistral.py, adapt_config_dict), as far as memory depends on it.
"""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.models.fields import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_TOKENS,
    MOST_WIDTH,
    Fields,
    NotCheckedError,
    shown,
    whole_number,
)

PARAMS, CONFIG = "params.json", "config.json"
# vLLM's where neither params.json nor a config.json beside it has a length.
DEFAULT_POSITIONS = 128_000
# params.json -> config.json
_NAMES = {
    "dim": "hidden_size", "hidden_dim": "intermediate_size", "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads", "n_kv_heads": "num_key_value_heads", "tied_embeddings": "tie_word_embeddings",
}  # fmt: skip

_LARGE_3 = {
    "num_experts": "n_routed_experts", "num_experts_per_tok": "num_experts_per_tok",
    "num_shared_experts": "n_shared_experts", "expert_hidden_dim": "moe_intermediate_size",
    "first_k_dense_replace": "first_k_dense_replace", "route_every_n": "moe_layer_freq",
}  # fmt: skip


def translate(params: dict[str, Any], beside: dict[str, Any], origin: str) -> dict[str, Any]:
    """The config.json that vLLM makes of a params.json; ``beside`` is the config.json in the same folder, or empty.

    ``origin`` names the file in errors. Raises NotCheckedError.
    """
    fields, vision = Fields(params, origin), _vision(params, origin)
    config = {_NAMES.get(key, key): value for key, value in params.items()}
    config |= {"model_type": "transformer", "architectures": [_architecture(fields)]}
    config |= _experts(fields) | _window(params, fields) | _rope(fields) | _quantization(fields)
    if params.get("max_position_embeddings") is None:
        text = Fields(beside, CONFIG).inside("text_config")
        positions = text.optional_count("max_position_embeddings", most=MOST_TOKENS)
        config["max_position_embeddings"] = positions or DEFAULT_POSITIONS
    if vision is None:
        return {**beside, **config, "text_config": None, "vision_config": None}
    quantization = config.get("quantization_config")
    return {
        "architectures": ["PixtralForConditionalGeneration"], "model_type": "pixtral", "text_config": config,
        "vision_config": vision, "quantization_config": quantization,
    }  # fmt: skip


def _architecture(fields: Fields) -> str:
    experts = fields.table("moe")
    if fields.word("model_type") == "mamba":
        return "Mamba2ForCausalLM"
    if experts and Fields(experts, fields.origin).optional_count("num_shared_experts", most=MOST_EXPERTS):
        return "MistralLarge3ForCausalLM"
    if fields.optional_count("qk_nope_head_dim", most=MOST_WIDTH) and not experts:
        return "MistralLarge3ForCausalLM"  # vLLM reads it as a mixture of one expert
    return "MixtralForCausalLM" if experts else "MistralForCausalLM"


def _experts(fields: Fields) -> dict[str, Any]:
    experts = fields.table("moe") or {}
    if experts.get("num_shared_experts"):  # Large 3
        return {new: experts.get(old) for old, new in _LARGE_3.items()}
    return {"num_local_experts": experts.get("num_experts"), "num_experts_per_tok": experts.get("num_experts_per_tok")}


def _window(params: dict[str, Any], fields: Fields) -> dict[str, Any]:
    """A list has the windows of a few layers, which repeat: null is full attention."""
    window = params.get("sliding_window")
    if not isinstance(window, list):
        return {}
    sizes = {whole_number(size) for size in window if size is not None}
    if not window or None in sizes or len(sizes) > 1:
        raise NotCheckedError(f"{fields.origin}: 'sliding_window' is {shown(window)}, not one size")
    kinds = ["full_attention" if size is None else "sliding_attention" for size in window]
    repeats = fields.count("n_layers", most=MOST_LAYERS) // len(window)
    return {"layer_types": kinds * repeats, "sliding_window": next(iter(sizes), None)}


def _rope(fields: Fields) -> dict[str, Any]:
    """YaRN's factor is already part of max_position_embeddings."""
    return {"rope_parameters": {"rope_type": "yarn"}} if fields.table("yarn") else {}


def _quantization(fields: Fields) -> dict[str, Any]:
    table = fields.table("quantization")
    if not table:
        return {}
    is_fp8 = table.get("qformat_weight") == "fp8_e4m3"
    return {"quantization_config": {"quant_method": "fp8"} if is_fp8 else table}


def _vision(params: dict[str, Any], origin: str) -> dict[str, Any] | None:
    fields = Fields(params, origin)
    several = fields.table("multimodal") or {}
    if several.get("whisper_model_args"):
        raise NotCheckedError(f"{origin}: a model of speech is not in the planner's table")
    return several if several.get("vision_encoder_args") else fields.table("vision_encoder") or None
