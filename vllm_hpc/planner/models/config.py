"""Reads config.json into a Shape, without torch and without the weights."""

from __future__ import annotations

from typing import Any

from vllm_hpc.planner.models.context import context_length
from vllm_hpc.planner.models.families import CLASSES, FAMILIES, Family
from vllm_hpc.planner.models.fields import (
    MOST_EXPERTS,
    MOST_LAYERS,
    MOST_TOKENS,
    MOST_WIDTH,
    Fields,
    NotCheckedError,
    read_dtype,
    shown,
)
from vllm_hpc.planner.models.generic import read_unlisted, with_encoder
from vllm_hpc.planner.models.quantization import read_quantization
from vllm_hpc.planner.models.shape import Experts as Experts
from vllm_hpc.planner.models.shape import Mla as Mla
from vllm_hpc.planner.models.shape import Shape as Shape
from vllm_hpc.planner.models.shape import in_lanes as in_lanes
from vllm_hpc.planner.models.shape import with_whole_experts as with_whole_experts
from vllm_hpc.spec.errors import ModelError

# Where config.json has the text model of a model of several parts; vLLM takes llm_config for text_config.
_TEXT = ("text_config", "llm_config", "language_config")


class UnknownArchitectureError(NotCheckedError):
    """A model that is not in the planner's table: its memory is unknown, but the job is not refused."""


def assumed_class(config: dict[str, Any], origin: str) -> str | None:
    """The class that belongs to the model_type of a config.json without 'architectures'; None if it has them.

    Raises UnknownArchitectureError if no class is known, NotCheckedError for 'architectures' that are not names.
    """
    top = Fields(config, origin)
    if top.architecture() is not None:
        return None
    kind = top.word("model_type")
    if kind not in CLASSES:
        raise UnknownArchitectureError(
            f"{origin} has no 'architectures', and the model_type {shown(kind)} is not in the planner's table; "
            """--engine 'hf_overrides={"architectures": ["..."]}' names the class"""
        )
    return CLASSES[kind]


def read_shape(config: dict[str, Any], origin: str) -> Shape:
    """The shape that a config.json describes; ``origin`` names it in errors.

    Raises NotCheckedError (UnknownArchitectureError) if it cannot be told, ModelError if no model can be like that.
    """
    top = Fields(config, origin)
    architecture = assumed_class(config, origin) or str(top.architecture())
    family = FAMILIES.get(architecture)
    if family is None:
        return read_unlisted(top, architecture[:80])
    text = top.inside("thinker_config").inside(*_TEXT).over(family.defaults)
    if text.table("per_layer_config"):
        raise NotCheckedError(f"{text.origin}: 'per_layer_config' has layers that differ")
    hidden = text.count("hidden_size", "n_embd", "d_model", most=MOST_WIDTH)
    heads = text.count("num_attention_heads", "n_head", most=MOST_WIDTH)
    layers = text.count("num_hidden_layers", "n_layer", most=MOST_LAYERS)
    window, window_layers = _window(text, family, layers)
    if text.optional_count("word_embed_proj_dim", most=MOST_WIDTH) not in (None, hidden):
        raise UnknownArchitectureError(f"{architecture} with embeddings narrower than its layers is not in the table")
    shape = Shape(
        architecture=architecture,
        family=family,
        hidden=hidden,
        layers=layers,
        vocabulary=text.count("vocab_size", most=100 * MOST_WIDTH),
        heads=heads,
        kv_heads=_kv_heads(text, architecture, heads),
        head_dim=_head_dim(text, hidden, heads, family),
        width=_width(text, hidden),
        norms=_norms(text, family, architecture),
        tied=text.flag("tie_word_embeddings", top.flag("tie_word_embeddings", family.tied)),
        dtype=read_dtype(text) or read_dtype(top) or "bfloat16",
        positions=context_length(text),
        qkv_bias=_bias(text, family.qkv_bias),
        out_bias=_bias(text, family.out_bias),
        mlp_bias=_bias(text, family.mlp_bias),
        window=window,
        window_layers=window_layers,
        mla=_mla(text) if family.mla else None,
        experts=_experts(text, family, layers),
        quantization=read_quantization(top) or read_quantization(text),
        vision=top.table("vision_config"),
    )
    return with_encoder(shape, top)


def _kv_heads(text: Fields, architecture: str, heads: int) -> int:
    """KV heads, as in vLLM (transformers_utils/model_arch_config_convertor.py, get_total_num_kv_heads)."""
    if architecture == "GPTBigCodeForCausalLM":
        return 1 if text.flag("multi_query", True) else heads
    if architecture == "FalconForCausalLM":
        if not text.flag("new_decoder_architecture", False) and text.flag("multi_query", True):
            return 1
        return text.optional_count("n_head_kv", "num_kv_heads", most=MOST_WIDTH) or heads
    kv_heads = text.given_count("num_key_value_heads", "num_kv_heads", most=MOST_WIDTH) or heads
    if heads % kv_heads:
        raise ModelError(f"{text.origin}: {heads} attention heads cannot share {kv_heads} kv heads: {text.advice}")
    return kv_heads


def _head_dim(text: Fields, hidden: int, heads: int, family: Family) -> int:
    given = None if family.mla else text.optional_count("head_dim", most=MOST_WIDTH)
    if given is None and not family.mla and hidden % heads:
        raise ModelError(
            f"{text.origin}: hidden_size {hidden} is not a multiple of {heads} attention heads, "
            f"and there is no head_dim: {text.advice}"
        )
    return given or hidden // heads


def _width(text: Fields, hidden: int) -> int:
    names = ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim")
    return text.optional_count(*names, most=MOST_WIDTH) or 4 * hidden


def _norms(text: Fields, family: Family, architecture: str) -> int:
    """Norms of a layer. Falcon's number depends on its generation."""
    if architecture != "FalconForCausalLM":
        return family.norms
    if text.flag("new_decoder_architecture", False):
        return text.optional_count("num_ln_in_parallel_attn", most=2) or 2
    return 1 if text.flag("parallel_attn", True) else 2


def _bias(text: Fields, rule: bool | str) -> bool:
    return text.flag(rule, False) if isinstance(rule, str) else rule


def _window(text: Fields, family: Family, layers: int) -> tuple[int | None, int]:
    """The sliding window and how many layers have it."""
    if not text.flag("use_sliding_window", family.window != "asked"):
        return None, 0
    window = text.optional_count("sliding_window", most=MOST_TOKENS)
    if window is None:
        return None, 0
    kinds = text.texts("layer_types")
    if kinds is not None:
        count = sum(kind == "sliding_attention" for kind in kinds[:layers])
    elif family.window == "alternate":
        count = (layers + 1) // 2
    elif family.window == "pattern":
        count = layers - layers // text.count("sliding_window_pattern", most=MOST_LAYERS)
    else:
        count = layers
    return (window, count) if count else (None, 0)


def _mla(text: Fields) -> Mla:
    """The sizes of multi-head latent attention. Raises NotCheckedError."""
    return Mla(
        kv_rank=text.count("kv_lora_rank", most=MOST_WIDTH),
        rope_dim=text.count("qk_rope_head_dim", most=MOST_WIDTH),
        nope_dim=text.count("qk_nope_head_dim", most=MOST_WIDTH),
        v_dim=text.count("v_head_dim", most=MOST_WIDTH),
        q_rank=text.optional_count("q_lora_rank", most=MOST_WIDTH),
    )


def _experts(text: Fields, family: Family, layers: int) -> Experts | None:
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    # Qwen's classes are dense models if they have no experts.
    if family.experts is None or (family.experts == "qwen" and text.is_zero(*names)):
        return None
    count = text.count(*names, most=MOST_EXPERTS)
    per_token = text.count("num_experts_per_tok", "experts_per_token", most=count)
    if family.experts == "qwen":
        step = text.optional_count("decoder_sparse_step", most=MOST_LAYERS) or 1
        dense = set(text.numbers("mlp_only_layers") or ())
        return Experts(
            count=count, per_token=per_token, width=text.count("moe_intermediate_size", most=MOST_WIDTH),
            layers=sum((layer + 1) % step == 0 and layer not in dense for layer in range(layers)),
            shared=text.optional_count("shared_expert_intermediate_size", most=MOST_WIDTH) or 0, shared_gate=True,
        )  # fmt: skip
    if family.experts == "deepseek":
        width = text.count("moe_intermediate_size", most=MOST_WIDTH)
        first = text.optional_count("first_k_dense_replace", most=MOST_LAYERS) or 0
        every = text.optional_count("moe_layer_freq", most=MOST_LAYERS) or 1
        return Experts(
            count=count, per_token=per_token, width=width, layers=len(range(-(-first // every) * every, layers, every)),
            shared=width * (text.optional_count("n_shared_experts", most=10_000) or 0),
            router_bias=text.word("topk_method") == "noaux_tc",
        )  # fmt: skip
    width = text.count("intermediate_size", most=MOST_WIDTH)
    oss = family.experts == "gpt-oss"
    return Experts(
        count=count, per_token=per_token, width=width, layers=layers, router_bias=oss, biases=oss, is_cut=not oss
    )
