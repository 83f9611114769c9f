"""Counts the layers of a hybrid model that keep a state of fixed size (Mamba, linear attention), not a KV cache.

The keys are those by which vLLM tells layers apart (config/model.py, get_num_layers_by_block_type; the model files): of
Jamba, Bamba, Zamba2, Granite 4, Nemotron-H, Qwen3-Next, MiniMax-Text-01, Kimi-Linear, LFM2, RecurrentGemma.
"""

from __future__ import annotations

from itertools import cycle, islice

from vllm_hpc.planner.models.fields import MOST_LAYERS, Fields, NotCheckedError

_PURE = frozenset({"mamba", "mamba2", "falcon_mamba", "rwkv", "rwkv7"})


def count_state_layers(text: Fields, layers: int) -> int:
    """How many of the layers have no KV cache. Raises NotCheckedError for keys that cannot be read."""
    if text.word("model_type") in _PURE:
        return layers
    for attention in (_by_kinds, _by_pattern, _by_indices, _by_period):
        if (found := attention(text, layers)) is not None:
            return layers - min(layers, found)
    return 0


def _by_kinds(text: Fields, layers: int) -> int | None:
    """A list with a kind for each layer, or one that repeats."""
    for name in ("layer_types", "layers_block_type", "block_types"):
        kinds = text.texts(name)
        if kinds:
            each = islice(cycle(kinds), layers) if name == "block_types" else kinds[:layers]
            return sum(("attention" in kind and "linear" not in kind) or kind == "hybrid" for kind in each)
    numbers = text.numbers("attn_type_list")  # MiniMax: 1 is softmax attention
    return None if numbers is None else sum(numbers[:layers])


def _by_pattern(text: Fields, layers: int) -> int | None:
    """Nemotron-H: a letter for each layer, a star for attention."""
    pattern = text.word("hybrid_override_pattern")
    return pattern.count("*") if pattern else None


def _by_indices(text: Fields, layers: int) -> int | None:
    """The numbers of the layers with attention."""
    linear = text.table("linear_attn_config")
    holder = Fields(linear, text.origin) if linear else text
    for name in ("full_attn_layers", "attn_layer_indices", "full_attn_idxs"):
        if (indices := holder.numbers(name)) is not None:
            return len(set(indices))
    return None


def _by_period(text: Fields, layers: int) -> int | None:
    """Attention in every n-th layer."""
    every = text.optional_count("full_attention_interval", most=MOST_LAYERS)
    if every:
        return layers // every
    period = text.optional_count("attn_layer_period", most=MOST_LAYERS)
    if period is None:
        return None
    offset = text.optional_count("attn_layer_offset", most=MOST_LAYERS) or 0
    if offset >= period:
        raise NotCheckedError(f"{text.origin}: attn_layer_offset {offset}, but a period of {period}")
    return len(range(offset, layers, period))
