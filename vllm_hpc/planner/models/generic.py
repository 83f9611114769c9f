"""Reads the config.json of an architecture that is not in the planner's table.

Every key is looked for under the names that the config classes of vLLM 0.32 and transformers 5 have for it; what they
do not say, a small table does (planner/models/traits.py). The count of parameters is off by ``doubt`` at most, as
tests/planner/test_every_architecture.py holds against published models and transformers' own classes.
"""

from __future__ import annotations

from collections import Counter

import msgspec

from vllm_hpc.planner.models.attention import Attention, read_attention
from vllm_hpc.planner.models.context import context_length
from vllm_hpc.planner.models.encoders import encoder_or_none
from vllm_hpc.planner.models.families import Family
from vllm_hpc.planner.models.fields import (
    MOST_LAYERS,
    MOST_TOKENS,
    MOST_WIDTH,
    Fields,
    NotCheckedError,
    read_dtype,
    shown,
)
from vllm_hpc.planner.models.layer_kinds import mixers_of, mlps_of
from vllm_hpc.planner.models.mixtures import has_experts, read_experts
from vllm_hpc.planner.models.quantization import read_quantization
from vllm_hpc.planner.models.shape import Shape
from vllm_hpc.planner.models.state import read_state
from vllm_hpc.planner.models.traits import DEFAULTS, INFERRED, INFERRED_PLAIN, PLAIN_ACTIVATIONS, PLAIN_MLP, TIED
from vllm_hpc.spec.errors import ModelError

DOUBT = 0.05
TEXT = ("text_config", "llm_config", "language_config", "language_model_config", "decoder_config")
_OUTER = ("thinker_config",)
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model", "model_dim", "hidden_dim")
_WIDTH = (
    "block_ff_dim",
    "intermediate_size",
    "n_inner",
    "ffn_hidden_size",
    "ffn_dim",
    "decoder_ffn_dim",
    "inner_size",
    "mlp_hidden_size",
)
_VOCABULARY = ("vocab_size", "padded_vocab_size", "embedding_size", "n_vocab")
_BESIDE = ("falcon_h1", "zamba2")  # layers with attention have a state, too
_WINDOW = ("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size", "attn_window_size")


def text_of(top: Fields) -> Fields:
    """The fields of the decoder: config.json's own, or those of a part of it, with the defaults of its class."""
    text = top.inside(*_OUTER).inside(*TEXT)
    return text.over(DEFAULTS.get(text.word("model_type"), {}))


def read_generic(top: Fields, architecture: str) -> Shape:
    """The shape of a model of any class. Raises NotCheckedError if it cannot be told."""
    text = text_of(top)
    hidden, layers = _need(text, *_HIDDEN, most=MOST_WIDTH), _layers(text)
    mixers = mixers_of(text, layers)
    kinds, parts = Counter(mixers), Counter(mlps_of(text, mixers, has_experts(text)))
    if text.word("model_type").startswith("longcat"):  # two layers of attention and plain MLPs for one of experts
        layers, kinds, parts = (
            2 * layers,
            Counter({"full": 2 * layers}),
            Counter({"dense": 2 * layers, "experts": layers}),
        )
    attention = read_attention(text, hidden, layers) if kinds["full"] + kinds["window"] else Attention()
    window = text.optional_count(*_WINDOW, most=MOST_TOKENS) if _uses_window(text) else None
    if not kinds["state"] and "Mamba" in architecture:
        raise NotCheckedError(f"{text.origin}: nothing tells which layers of {architecture} keep a state")
    beside = text.word("model_type") in _BESIDE
    states = layers if beside else kinds["state"]
    return Shape(
        architecture=architecture,
        family=_family(text),
        hidden=hidden,
        layers=layers,
        vocabulary=_need(
            text.over({"vocab_size": top.optional_count("vocab_size", most=100 * MOST_WIDTH)}),
            *_VOCABULARY,
            most=100 * MOST_WIDTH,
        ),
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        width=_width(text, hidden),
        norms=2,
        tied=_is_tied(text, top),
        dtype=read_dtype(text) or read_dtype(top) or "bfloat16",
        positions=context_length(text),
        qkv_bias=text.says("attention_bias", "qkv_bias", "use_qkv_bias", "add_qkv_bias"),
        window=window if kinds["window"] else None,
        window_layers=kinds["window"] if window else 0,
        window_heads=attention.window_heads if kinds["window"] and window else None,
        mla=attention.mla,
        experts=read_experts(text, hidden, parts["experts"]),
        state=read_state(text, hidden, states, beside) if states else None,
        bare_layers=kinds["bare"] + (kinds["state"] if beside else 0),
        shared_kv=text.optional_count("num_kv_shared_layers", most=layers) or 0,
        mlp_layers=parts["dense"],
        attention_weights=_own_weights(text)[0],
        mlp_weights=_own_weights(text)[1],
        v_dim=attention.v_dim,
        query_parts=attention.query_parts,
        attention_extra=attention.extra,
        extra=_extra(text, hidden, layers),
        index_bytes=attention.index_bytes,
        quantization=read_quantization(top) or read_quantization(text),
        encoder=encoder_or_none(top, hidden),
        doubt=DOUBT,
    )


def read_unlisted(top: Fields, architecture: str) -> Shape:
    """The same; numbers that no model can have are not refused: the class may mean something else by them."""
    try:
        return read_generic(top, architecture)
    except NotCheckedError:
        raise
    except (ModelError, ValueError, ZeroDivisionError, OverflowError) as error:
        raise NotCheckedError(str(error)) from None


def _need(text: Fields, *names: str, most: int) -> int:
    value = text.size(*names, most=most)
    if value is None:
        raise NotCheckedError(f"{text.origin}: {names[0]!r} is missing")
    return value


def _layers(text: Fields) -> int:
    if pattern := text.word("hybrid_override_pattern"):
        if not set(pattern) <= set("M*-E"):
            raise NotCheckedError(f"{text.origin}: 'hybrid_override_pattern' is {shown(pattern)}, not of M, *, - and E")
        return min(len(pattern), MOST_LAYERS)
    if not text.has("num_hidden_layers") and (blocks := text.texts("layers_block_type")):
        return len(blocks)
    names = ("num_layers", *_LAYERS) if text.word("model_type").startswith("longcat") else _LAYERS
    return _need(text, *names, most=MOST_LAYERS)


def _width(text: Fields, hidden: int) -> int:
    """The width of a plain MLP. Where layers differ, the largest."""
    wide = text.optional_count("intermediate_size_mlp", most=MOST_WIDTH)
    width = wide or text.size(*_WIDTH, most=MOST_WIDTH) or 4 * hidden
    if text.word("model_type") == "lfm2" and text.says("block_auto_adjust_ff_dim"):
        multiple = text.optional_count("block_multiple_of", most=MOST_WIDTH) or 256
        width = -(-int(2 * width / 3 * (text.ratio("block_ffn_dim_multiplier") or 1)) // multiple) * multiple
    return width


def _family(text: Fields) -> Family:
    activation = text.word("hidden_act", "hidden_activation", "activation_function", "mlp_hidden_act", "activation")
    is_plain = text.word("model_type") in PLAIN_MLP or activation in PLAIN_ACTIVATIONS
    return INFERRED_PLAIN if is_plain else INFERRED


def _is_tied(text: Fields, top: Fields) -> bool:
    default = bool({text.word("model_type"), top.word("model_type")} & TIED)
    return text.flag("tie_word_embeddings", top.flag("tie_word_embeddings", default))


def _uses_window(text: Fields) -> bool:
    return text.flag("use_sliding_window", True)


def _extra(text: Fields, hidden: int, layers: int) -> int:
    """Embeddings for each layer (Gemma 3n and 4), with their projections."""
    wide = text.optional_count("hidden_size_per_layer_input", most=MOST_WIDTH) or 0
    rows = text.optional_count("vocab_size_per_layer_input", most=100 * MOST_WIDTH) or 0
    shared = text.numbers("hybrid_layer_ids") or text.texts("layers_block_type") or ()
    if text.has("num_mem_blocks"):  # Zamba 2: a projection for each use of a shared block
        return hidden * hidden * sum(one == "hybrid" or isinstance(one, int) for one in shared)
    return wide * layers * (rows + 3 * hidden) if wide else 0


def _own_weights(text: Fields) -> tuple[int | None, int | None]:
    """Layers with attention and with MLPs of their own, where others use the same again; None: all of them."""
    if blocks := text.optional_count("num_mem_blocks", most=MOST_LAYERS):  # Zamba 2, on states twice as wide
        return 2 * blocks, blocks
    if stack := text.optional_count("num_layers_per_stack", most=MOST_LAYERS):  # HRM
        return 2 * stack, 2 * stack
    return None, None


def with_encoder(shape: Shape, top: Fields) -> Shape:
    """A shape of the table with the encoder that its config.json describes."""
    if shape.vision is None:
        return shape
    return msgspec.structs.replace(shape, encoder=encoder_or_none(top, shape.hidden))
