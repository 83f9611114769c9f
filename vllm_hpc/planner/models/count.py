"""Counts the parameters of each part of a Shape, in total and on one rank. Elements, not bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.fields import MOST_WIDTH, Fields
from vllm_hpc.spec.errors import ModelError

# vLLM pads the vocabulary to a multiple of this (model_executor/layers/vocab_parallel_embedding.py).
VOCABULARY_PADDING = 64


class LayerParts(msgspec.Struct, frozen=True):
    """The parameters of one layer, by how TP treats them.

    ``split`` is split over the TP ranks, ``kv`` too as long as there are enough heads, ``whole`` (the low-rank
    projections of MLA) is on every rank, every one of ``experts`` is split. ``small`` (norms, biases, routers) is on
    every rank and never quantised.
    """

    split: int
    kv: int
    whole: int
    experts: int
    small: int

    @property
    def total(self) -> int:
        """All parameters, each counted once."""
        return self.split + self.kv + self.whole + self.experts + self.small


def layer_parts(shape: Shape, is_mixture: bool) -> LayerParts:
    """The parameters of a layer with a mixture of experts, or with a plain MLP."""
    split, kv, whole, small = _attention(shape)
    experts = 0
    if is_mixture and shape.experts:
        mixture, matrices = shape.experts, 3 if shape.family.gated_mlp else 2
        experts = mixture.count * matrices * shape.hidden * mixture.width
        split += 3 * shape.hidden * mixture.shared
        small += shape.hidden * (mixture.count + (mixture.shared_gate and mixture.shared > 0))
        small += mixture.count * mixture.router_bias
        if mixture.biases:
            experts += mixture.count * (2 * mixture.width + shape.hidden)
    else:
        split += (3 if shape.family.gated_mlp else 2) * shape.hidden * shape.width
        if shape.mlp_bias:
            small += (2 if shape.family.gated_mlp else 1) * shape.width + shape.hidden
    small += shape.norms * shape.family.norm_tensors * shape.hidden
    return LayerParts(split, kv, whole, experts, small)


def _attention(shape: Shape) -> tuple[int, int, int, int]:
    """The split, kv, whole and small parameters of a layer's attention."""
    hidden = shape.hidden
    if shape.mla:
        mla = shape.mla
        query = shape.heads * (mla.nope_dim + mla.rope_dim)
        split = (mla.q_rank or hidden) * query
        split += mla.kv_rank * shape.heads * (mla.nope_dim + mla.v_dim) + shape.heads * mla.v_dim * hidden
        whole = hidden * (mla.kv_rank + mla.rope_dim) + hidden * (mla.q_rank or 0)
        return split, 0, whole, mla.kv_rank + (mla.q_rank or 0)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    small = (queries + 2 * keys) * shape.qkv_bias + hidden * shape.out_bias + shape.heads * shape.family.sinks
    small += {None: 0, "head": 2 * shape.head_dim, "full": queries + keys}[shape.family.qk_norm]
    return 2 * hidden * queries, 2 * hidden * keys, 0, small


def embedding(shape: Shape) -> int:
    """The table of token embeddings, and that of positions if there is one."""
    extra = shape.family.learned_positions
    return shape.vocabulary * shape.hidden + (0 if extra is None else (shape.positions + extra) * shape.hidden)


def padded_vocabulary(shape: Shape) -> int:
    """Rows of the embedding and of the output projection in vLLM."""
    return -(-shape.vocabulary // VOCABULARY_PADDING) * VOCABULARY_PADDING


def head(shape: Shape) -> int:
    """The output projection; 0 if it is tied to the embedding."""
    return (0 if shape.tied else shape.vocabulary * shape.hidden) + shape.vocabulary * shape.family.head_bias


def count_parameters(shape: Shape) -> int | None:
    """All parameters of a model, None if a part cannot be counted (an unknown vision tower)."""
    vision = vision_parameters(shape)
    if vision is None:
        return None
    moe_layers = shape.experts.layers if shape.experts else 0
    layers = moe_layers * layer_parts(shape, True).total + shape.dense_layers * layer_parts(shape, False).total
    return embedding(shape) + head(shape) + layers + shape.hidden * shape.family.norm_tensors + vision


def active_parameters(shape: Shape) -> int:
    """Parameters that one token is multiplied with: only the experts it is routed to, no embedding."""
    total = shape.dense_layers * layer_parts(shape, False).total + shape.vocabulary * shape.hidden
    if shape.experts:
        parts = layer_parts(shape, True)
        used = parts.experts * shape.experts.per_token // shape.experts.count
        total += shape.experts.layers * (parts.total - parts.experts + used)
    return total


def vision_parameters(shape: Shape) -> int | None:
    """A SigLIP tower with Gemma 3's projector; 0 without a vision part, None for any other."""
    if shape.vision is None:
        return 0
    fields = Fields(shape.vision, "vision_config").over(_SIGLIP_SO400M)
    if fields.word("model_type") != "siglip_vision_model":
        return None
    try:
        width, inner, layers, patch, image = (fields.count(key, most=MOST_WIDTH) for key in _SIGLIP_SO400M)
    except ModelError:
        return None
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    patches = 3 * patch * patch * width + width + (image // patch) ** 2 * width
    return int(layers * layer + patches + 2 * width + width * shape.hidden + width)


_SIGLIP_SO400M: dict[str, Any] = {
    "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "patch_size": 14, "image_size": 896,
}  # fmt: skip
