"""Bytes of the KV cache, and of states in its place: per token, per block and per sequence, as vLLM divides them."""

from __future__ import annotations

from math import ceil

from vllm_hpc.planner.load import Load
from vllm_hpc.planner.models.shape import Shape

BLOCK_TOKENS = 16


def kv_bytes_per_token(shape: Shape, tp: int = 1, element: int = 2) -> int:
    """KV cache bytes per token on a rank with all layers, without sliding windows."""
    windowed = shape.window_layers if shape.window_heads else 0
    elements = (shape.kv_layers - windowed) * _kv_elements(shape, tp) + windowed * _window_elements(shape, tp)
    return elements * element + shape.kv_layers * shape.index_bytes


def state_bytes(shape: Shape) -> int:
    """Bytes of a sequence's state in all layers, whatever its length."""
    return shape.state.layers * shape.state.bytes if shape.state else 0


def _kv_elements(shape: Shape, tp: int) -> int:
    """Elements per token and layer. With more ranks than KV heads each has one; MLA's latent is on every rank."""
    if shape.mla and shape.mla.caches_heads:
        return 2 * max(1, shape.heads // tp) * (shape.mla.nope_dim + shape.mla.rope_dim)
    if shape.mla:
        return shape.mla.kv_rank + shape.mla.rope_dim
    return max(1, shape.kv_heads // tp) * (shape.head_dim + (shape.v_dim or shape.head_dim))


def _window_elements(shape: Shape, tp: int) -> int:
    """The same of a layer with a window."""
    heads = shape.window_heads
    return max(1, heads.kv_heads // tp) * (heads.head_dim + heads.v_dim) if heads else _kv_elements(shape, tp)


def state_bytes_on_rank(shape: Shape, tp: int) -> float:
    """The same on one of TP ranks, which divide them."""
    return state_bytes(shape) / tp


def token_bytes(shape: Shape, load: Load, tp: int) -> float:
    """Bytes of a token in all layers without a window."""
    return shape.full_layers * (_kv_elements(shape, tp) * load.kv_bytes + shape.index_bytes)


def _group_layers(shape: Shape) -> int:
    """Layers that share a block: the smaller of the full and windowed counts, or the larger if they are close.

    v1/core/kv_cache_utils.py, _get_kv_cache_groups_uniform_page_size.
    """
    kinds = [count for count in (shape.full_layers, shape.window_layers) if count]
    return max(kinds) if max(kinds) < min(kinds) * 1.5 else min(kinds)


def block_bytes(shape: Shape, load: Load, tp: int, stage_layers: int) -> float:
    """Bytes of one block on a rank with ``stage_layers`` layers; where layers are uneven, of a whole sequence."""
    if shape.is_uneven or shape.index_bytes:
        return max(1.0, _sequence_bytes(shape, load, tp) * stage_layers / shape.layers)
    layers = ceil(_group_layers(shape) * stage_layers / shape.layers)
    return BLOCK_TOKENS * _kv_elements(shape, tp) * load.kv_bytes * layers


def blocks_of_sequence(shape: Shape, load: Load) -> int:
    """Blocks of one sequence of max_model_len tokens, over all groups of layers.

    A window also holds the tokens scheduled by two steps in flight (kv_cache_interface.py, SlidingWindowSpec).
    """
    if shape.is_uneven or shape.index_bytes:
        return 1
    group = _group_layers(shape)
    blocks = ceil(load.max_model_len / BLOCK_TOKENS) * ceil(shape.full_layers / group)
    if shape.window and shape.window_layers:
        tokens = min(shape.window - 1 + 2 * load.max_num_batched_tokens, load.max_model_len)
        blocks += (ceil(tokens / BLOCK_TOKENS) + 1) * ceil(shape.window_layers / group)
    return blocks


def _sequence_bytes(shape: Shape, load: Load, tp: int) -> float:
    """Bytes of one sequence of max_model_len tokens in all layers: keys and values, windows of them, and states.

    vLLM makes the pages of all kinds of layers equally large (v1/core/kv_cache_utils.py): at most another page.
    """
    tokens = ceil(load.max_model_len / BLOCK_TOKENS) * BLOCK_TOKENS
    total = tokens * token_bytes(shape, load, tp) + state_bytes_on_rank(shape, tp)
    if shape.window and shape.window_layers:
        seen = min(shape.window - 1 + 2 * load.max_num_batched_tokens, tokens) + BLOCK_TOKENS
        total += shape.window_layers * seen * _window_elements(shape, tp) * load.kv_bytes
    return total
