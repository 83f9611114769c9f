"""Which layers have attention, over how far, a state, or neither; and which have experts: of any config.json.

The keys are those of vLLM 0.32's own classes (transformers_utils/configs, model_executor/models) and of transformers 5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from vllm_hpc.planner.models.fields import MOST_LAYERS, Fields

Mixer = Literal["full", "window", "state", "bare"]
Mlp = Literal["dense", "experts", "none"]
# Words in the names of layer types, in the order in which they are looked for.
_WORDS: tuple[tuple[str, Mixer], ...] = (
    ("linear", "state"), ("mamba", "state"), ("conv", "state"), ("recurrent", "state"), ("ssm", "state"),
    ("kda", "state"), ("sliding", "window"), ("chunked", "window"), ("local", "window"), ("moe", "bare"),
    ("mlp", "bare"),
)  # fmt: skip
_LISTS = ("layer_types", "layers_block_type", "block_types")
_PATTERN: dict[str, tuple[Mixer, Mlp]] = {  # Nemotron-H
    "M": ("state", "none"), "*": ("full", "none"), "-": ("bare", "dense"), "E": ("bare", "experts"),
}  # fmt: skip
PURE_STATE = ("mamba", "mamba2", "falcon_mamba")
# Classes that use sliding_window in every layer if nothing says in which.
_ALL_WINDOWS = ("mistral", "mixtral", "phi3", "phimoe", "starcoder2", "ministral", "phi3small")


def mixers_of(text: Fields, layers: int) -> list[Mixer]:
    """What each layer mixes tokens with. Raises NotCheckedError for values that cannot be read."""
    if text.word("model_type") in PURE_STATE:
        return ["state"] * layers
    if pattern := text.word("hybrid_override_pattern"):
        return [_PATTERN[kind][0] for kind in pattern if kind in _PATTERN]
    for name in _LISTS:
        kinds = text.texts(name) if name != "block_types" or text.has(name) else None
        if kinds:
            return _fill([_mixer(kind) for kind in kinds], layers)
    return [_mixer_at(text, layers)(layer) for layer in range(layers)]


def _mixer(kind: str) -> Mixer:
    return next((mixer for word, mixer in _WORDS if word in kind.lower()), "full")


def _fill(kinds: list[Any], layers: int) -> list[Any]:
    """The kinds of so many layers: a list that is too short is repeated."""
    return (kinds * -(-layers // len(kinds)))[:layers]


def _mixer_at(text: Fields, layers: int) -> Callable[[int], Mixer]:
    """The rule for a layer where there is no list of types."""
    for name in ("attn_layer_indices", "full_attn_idxs", "attention_layers_idx", "full_attention_layers"):
        if places := text.numbers(name):
            return lambda layer: "full" if layer in places else "state"
    if linear := text.table("linear_attn_config"):
        full = Fields(linear, f"{text.origin}: linear_attn_config").numbers("full_attn_layers") or []
        return lambda layer: "full" if layer + 1 in full else "state"
    if kinds := text.numbers("attn_type_list"):  # MiniMax: 1 is full attention
        return lambda layer: "full" if layer < len(kinds) and kinds[layer] else "state"
    if period := text.optional_count("attn_layer_period", most=MOST_LAYERS):
        offset = text.optional_count("attn_layer_offset", most=MOST_LAYERS) or 0
        return lambda layer: "full" if layer % period == offset else "state"
    if every := text.optional_count("full_attention_interval", "layer_group_size", most=MOST_LAYERS):
        return lambda layer: "full" if (layer + 1) % every == 0 else "state"
    return _window_at(text, layers)


def _window_at(text: Fields, layers: int) -> Callable[[int], Mixer]:
    if pattern := text.numbers("hybrid_layer_pattern"):  # MiMo V2: 1 is a window
        return lambda layer: "window" if layer < len(pattern) and pattern[layer] else "full"
    if text.has("attention_chunk_size"):  # Llama 4
        plain = text.numbers("no_rope_layers") or [(layer + 1) % 4 for layer in range(layers)]
        return lambda layer: "window" if layer < len(plain) and plain[layer] else "full"
    if letters := text.word("sliding_window_pattern"):  # Exaone 4: LLLG
        return lambda layer: "full" if letters[layer % len(letters)] == "G" else "window"
    every = text.optional_count(
        "sliding_window_pattern", "_sliding_window_pattern", "global_attn_every_n_layers", most=MOST_LAYERS
    )
    if every:
        return lambda layer: "full" if (layer + 1) % every == 0 else "window"
    return lambda layer: "window" if text.word("model_type") in _ALL_WINDOWS else "full"


def mlps_of(text: Fields, mixers: list[Mixer], has_experts: bool) -> list[Mlp]:
    """The kind of MLP of each layer. Raises NotCheckedError for values that cannot be read."""
    if pattern := text.word("hybrid_override_pattern"):
        return [_PATTERN[kind][1] for kind in pattern if kind in _PATTERN]
    if text.word("model_type") in PURE_STATE:
        return ["none"] * len(mixers)
    blocks = text.texts("layers_block_type") or []
    if "bare" in mixers:  # Nemotron-H: a layer is a mixer or an MLP
        kinds = _fill(blocks or ["full"], len(mixers))
        return [
            "none" if m != "bare" else "experts" if "moe" in kind else "dense"
            for m, kind in zip(mixers, kinds, strict=True)
        ]
    if not has_experts:
        return ["dense"] * len(mixers)
    has = _experts_at(text, len(mixers))
    return ["experts" if has(layer) else "dense" for layer in range(len(mixers))]


def _experts_at(text: Fields, layers: int) -> Callable[[int], bool]:
    """Whether a layer has experts. Raises NotCheckedError."""
    if kinds := text.texts("mlp_layer_types"):
        return lambda layer: layer >= len(kinds) or kinds[layer] != "dense"
    if text.has("moe_layers") and (places := text.numbers("moe_layers")):
        return lambda layer: layer in places
    if listed := text.word("moe_layers_enum"):  # Step 3: "4,5,6"
        named = {int(one) for one in listed.split(",") if one.strip().isdigit()}
        return lambda layer: layer in named
    if text.is_list("moe_layer_freq"):
        flags = text.numbers("moe_layer_freq") or []
        return lambda layer: layer >= len(flags) or flags[layer] > 0
    return _experts_every(text, layers)


def _experts_every(text: Fields, layers: int) -> Callable[[int], bool]:
    if period := text.optional_count("expert_layer_period", most=MOST_LAYERS):  # Jamba
        offset = text.optional_count("expert_layer_offset", most=MOST_LAYERS) or 0
        return lambda layer: layer % period == offset
    if text.has("moe_layer_start_index") or text.has("moe_layer_interval"):  # Ernie 4.5
        return _ernie_at(text, layers)
    if step := text.optional_count("interleave_moe_layer_step", most=MOST_LAYERS):  # Llama 4
        return lambda layer: (layer + 1) % step == 0
    if text.has("decoder_sparse_step") or text.has("mlp_only_layers"):  # Qwen
        every, dense = (
            text.optional_count("decoder_sparse_step", most=MOST_LAYERS) or 1,
            text.numbers("mlp_only_layers"),
        )
        return lambda layer: (layer + 1) % every == 0 and layer not in (dense or ())
    names = ("first_k_dense_replace", "num_dense_layers", "moe_num_first_k_dense", "first_num_dense_layers")
    first = text.optional_count(*names, most=MOST_LAYERS) or 0
    every = text.optional_count("moe_layer_freq", "moe_every_n_layers", most=MOST_LAYERS) or 1
    return lambda layer: layer >= first and layer % every == 0


def _ernie_at(text: Fields, layers: int) -> Callable[[int], bool]:
    def bound(name: str, default: int) -> int:
        values = text.numbers(name) if text.is_list(name) else None
        if values:
            return max(0, min(values))
        return default if text.is_minus_one(name) else text.optional_count(name, most=MOST_LAYERS) or default

    start, end = bound("moe_layer_start_index", 0), bound("moe_layer_end_index", layers - 1)
    every = text.optional_count("moe_layer_interval", most=MOST_LAYERS) or 1
    return lambda layer: (layer + 1) % every == 0 and start <= layer <= end
