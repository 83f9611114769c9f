"""Reads the config.json of a class that is not in the table: a decoder whose keys mean what they mean elsewhere.

The names are those that vLLM looks for (transformers_utils/model_arch_config_convertor.py, transformers_utils/configs)
and that published models use. What such a file leaves open can be much of the parameters (docs/planner.md);
where the weights are here, their files tell the size, and only the KV cache and the split rest on these keys.
"""

from __future__ import annotations

from vllm_hpc.planner.models.config import Experts, Mla, Shape, read_dtype, read_mla
from vllm_hpc.planner.models.context import context_length
from vllm_hpc.planner.models.families import Family
from vllm_hpc.planner.models.fields import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_TOKENS,
    MOST_WIDTH,
    Fields,
    NotCheckedError,
)
from vllm_hpc.planner.models.quantization import read_quantization
from vllm_hpc.planner.models.state_layers import count_state_layers

_TEXT = ("text_config", "llm_config", "language_config", "language_model_config", "decoder_config")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "num_decoder_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads")
_KV_HEADS = (
    "num_key_value_heads", "n_head_kv", "num_kv_heads", "n_kv_heads", "multi_query_group_num", "num_attention_groups",
    "num_query_groups",
)  # fmt: skip
_HEAD_DIM = ("head_dim", "kv_channels", "attention_head_dim", "attention_head_size")
_WIDTH = ("intermediate_size", "ffn_hidden_size", "n_inner", "ffn_dim", "mlp_hidden_size", "decoder_ffn_dim")
_VOCABULARY = ("vocab_size", "padded_vocab_size", "text_vocab_size", "n_vocab")
_BIASES = ("attention_bias", "qkv_bias", "add_qkv_bias", "use_qkv_bias", "bias")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_PER_TOKEN = (
    "num_experts_per_tok", "num_experts_per_token", "experts_per_token", "moe_topk", "moe_top_k", "moe_k",
    "num_selected_experts", "num_activated_experts",
)  # fmt: skip
_EXPERT_WIDTH = (
    "moe_intermediate_size", "expert_intermediate_size", "expert_ffn_hidden_size", "moe_ffn_hidden_size",
    "ffn_hidden_size", "intermediate_size",
)  # fmt: skip
_SHARED = ("n_shared_experts", "num_shared_experts", "num_shared_expert", "moe_num_shared_experts")
_SHARED_WIDTH = (
    "shared_expert_intermediate_size", "moe_shared_expert_intermediate_size", "shared_intermediate_size",
    "intermediate_size_shared_expert",
)  # fmt: skip
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index", "n_dense_layers")
_EVERY = (
    "moe_layer_freq", "decoder_sparse_step", "interleave_moe_layer_step", "moe_layer_interval", "expert_layer_period",
)  # fmt: skip

# Classes that have nothing but states.
_PURE = ("Mamba", "FalconMamba", "RWKV", "Rwkv")
_GATED = Family()
_NOT_GATED = Family(gated_mlp=False, mlp_bias=False)


def read_generic(top: Fields, architecture: str) -> Shape:
    """The shape of a model of that class. Raises NotCheckedError if its keys do not tell one."""
    text = top.inside("thinker_config").inside(*_TEXT)
    hidden, layers = text.count(*_HIDDEN, most=MOST_WIDTH), text.count(*_LAYERS, most=MOST_LAYERS)
    heads = text.count(*_HEADS, most=MOST_WIDTH)
    width = text.optional_count(*_WIDTH, most=MOST_WIDTH)
    mla = _mla(text)
    state_layers = layers if architecture.startswith(_PURE) else count_state_layers(text, layers)
    if state_layers >= layers:
        raise NotCheckedError(f"{architecture[:80]} has no attention, and its state is not in the planner's table")
    window, window_layers = _window(text, layers)
    return Shape(
        architecture=architecture,
        family=_GATED if width else _NOT_GATED,
        hidden=hidden,
        layers=layers,
        vocabulary=text.count(*_VOCABULARY, most=100 * MOST_WIDTH),
        heads=heads,
        kv_heads=_kv_heads(text, heads),
        head_dim=_head_dim(text, hidden, heads, mla),
        width=width or 4 * hidden,
        norms=2,
        tied=text.flag("tie_word_embeddings", top.flag("tie_word_embeddings", False)),
        dtype=read_dtype(text) or read_dtype(top) or "bfloat16",
        positions=context_length(text),
        qkv_bias=any(text.flag(name, False) for name in _BIASES),
        window=window,
        window_layers=window_layers,
        mla=mla,
        experts=_experts(text, layers),
        quantization=read_quantization(top) or read_quantization(text),
        vision=top.table("vision_config"),
        state_layers=state_layers,
        is_exact=False,
    )


def _kv_heads(text: Fields, heads: int) -> int:
    if not text.flag("multi_query_attention", True):  # ChatGLM has the number all the same
        return heads
    kv_heads = text.optional_count(*_KV_HEADS, most=MOST_WIDTH) or heads
    if heads % kv_heads:
        raise NotCheckedError(f"{text.origin}: {heads} attention heads and {kv_heads} kv heads: layers differ")
    return kv_heads


def _head_dim(text: Fields, hidden: int, heads: int, mla: Mla | None) -> int:
    given = text.optional_count(*_HEAD_DIM, most=MOST_WIDTH)
    if given is None and mla is None and hidden % heads:
        raise NotCheckedError(f"{text.origin}: hidden_size {hidden}, {heads} attention heads, and no head_dim")
    return given or max(1, hidden // heads)


def _mla(text: Fields) -> Mla | None:
    if text.optional_count("kv_lora_rank", most=MOST_WIDTH) is not None:
        return read_mla(text)
    if text.optional_count("qk_nope_head_dim", most=MOST_WIDTH):
        raise NotCheckedError(f"{text.origin}: 'qk_nope_head_dim' without 'kv_lora_rank'")
    return None


def _window(text: Fields, layers: int) -> tuple[int | None, int]:
    """The window, in tokens, and its layers: only where layer_types says which; else all layers count as whole."""
    kinds = text.texts("layer_types")
    window = text.optional_count("sliding_window", "attention_chunk_size", most=MOST_TOKENS)
    count = sum(kind in ("sliding_attention", "chunked_attention") for kind in (kinds or ())[:layers])
    return (window, count) if window and count else (None, 0)


def _experts(text: Fields, layers: int) -> Experts | None:
    count = text.optional_count(*_EXPERTS, most=MOST_EXPERTS)
    if count is None or count == 1:
        return None
    width = text.count(*_EXPERT_WIDTH, most=MOST_WIDTH)
    shared = text.optional_count(*_SHARED_WIDTH, most=MOST_WIDTH)
    number = text.optional_count(*_SHARED, most=10_000)
    return Experts(
        count=count,
        per_token=text.count(*_PER_TOKEN, most=count),
        width=width,
        layers=_mixture_layers(text, layers),
        shared=(shared or width) * (number or 1) if shared or number else 0,
    )


def _mixture_layers(text: Fields, layers: int) -> int:
    """Layers with experts: a list of them, or all but the first ones, or every n-th."""
    if (listed := text.numbers("moe_layers")) is not None:
        return len(listed)
    dense = set(text.numbers("mlp_only_layers") or ())
    first = text.optional_count(*_DENSE_FIRST, most=MOST_LAYERS) or 0
    every = text.optional_count(*_EVERY, most=MOST_LAYERS) or 1
    return len([layer for layer in range(first, layers) if layer not in dense and (layer + 1) % every == 0])
