"""Counts the parameters of each part of a Shape, in total and on one rank. Elements, not bytes."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.models.fields import MOST_WIDTH, Fields
from vllm_hpc.planner.models.shape import Heads, Mla, Shape
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
    return _sum([_attention(shape), _norms(shape), _experts(shape) if is_mixture else _mlp(shape)])


def all_layers(shape: Shape) -> LayerParts:
    """The parameters of all layers together, of whatever kinds they are."""
    attention, mixture = shape.attention_layers, shape.experts.layers if shape.experts else 0
    attention = attention if shape.attention_weights is None else shape.attention_weights
    other = min(attention, shape.window_layers) if shape.window_heads else 0
    parts = [(_norms(shape), shape.layers), (_attention(shape), attention - other)]
    if shape.window_heads:
        parts.append((_attention(shape, shape.window_heads), other))
    if shape.state:
        parts.append((LayerParts(shape.state.parameters, 0, 0, 0, 0), shape.state.layers))
    if mixture:
        parts.append((_experts(shape), mixture))
    parts.append((_mlp(shape), shape.dense_layers if shape.mlp_weights is None else shape.mlp_weights))
    return _sum([_times(part, number) for part, number in parts])


def _sum(parts: list[LayerParts]) -> LayerParts:
    columns = zip(*((one.split, one.kv, one.whole, one.experts, one.small) for one in parts), strict=True)
    return LayerParts(*map(sum, columns))


def _times(part: LayerParts, number: int) -> LayerParts:
    return LayerParts(
        part.split * number, part.kv * number, part.whole * number, part.experts * number, part.small * number
    )


def _norms(shape: Shape) -> LayerParts:
    return LayerParts(0, 0, 0, 0, shape.norms * shape.family.norm_tensors * shape.hidden)


def _experts(shape: Shape) -> LayerParts:
    mixture, matrices = shape.experts, 3 if shape.family.gated_mlp else 2
    if mixture is None:
        return _mlp(shape)
    experts = mixture.count * matrices * shape.hidden * mixture.width
    small = shape.hidden * (mixture.count + (mixture.shared_gate and mixture.shared > 0))
    small += mixture.count * mixture.router_bias
    if mixture.biases:
        experts += mixture.count * (2 * mixture.width + shape.hidden)
    return LayerParts(matrices * shape.hidden * mixture.shared, 0, 0, experts, small)


def _mlp(shape: Shape) -> LayerParts:
    matrices = 3 if shape.family.gated_mlp else 2
    small = (matrices - 1) * shape.width + shape.hidden if shape.mlp_bias else 0
    return LayerParts(matrices * shape.hidden * shape.width, 0, 0, 0, small)


def _attention(shape: Shape, other: Heads | None = None) -> LayerParts:
    """A layer's attention; ``other`` heads than those of the shape for layers with a window."""
    hidden = shape.hidden
    if shape.mla:
        return _latent_attention(shape, shape.mla)
    heads = other or Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.v_dim or shape.head_dim)
    queries, keys, values = heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim, heads.kv_heads * heads.v_dim
    small = (queries + keys + values) * shape.qkv_bias + hidden * shape.out_bias + heads.heads * shape.family.sinks
    small += {None: 0, "head": 2 * heads.head_dim, "full": queries + keys}[shape.family.qk_norm]
    split = hidden * queries * shape.query_parts + heads.heads * heads.v_dim * hidden + shape.attention_extra
    return LayerParts(split, hidden * (keys + values), 0, 0, small)


def _latent_attention(shape: Shape, mla: Mla) -> LayerParts:
    hidden = shape.hidden
    query = shape.heads * (mla.nope_dim + mla.rope_dim)
    split = (mla.q_rank or hidden) * query
    split += mla.kv_rank * shape.heads * (mla.nope_dim + mla.v_dim) + shape.heads * mla.v_dim * hidden
    whole = hidden * (mla.kv_rank + mla.rope_dim) + hidden * (mla.q_rank or 0) + shape.attention_extra
    return LayerParts(split, 0, whole, 0, mla.kv_rank + (mla.q_rank or 0))


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
    ends = embedding(shape) + head(shape) + shape.hidden * shape.family.norm_tensors
    return ends + all_layers(shape).total + shape.extra + vision


def parameter_range(shape: Shape) -> tuple[int, int] | None:
    """The fewest and the most parameters that the model can have by its config.json; None if they cannot be counted."""
    counted = count_parameters(shape)
    if counted is None:
        return None
    off = doubt_of(shape)
    return int(counted * (1 - off)), int(counted * (1 + off))


def doubt_of(shape: Shape) -> float:
    """How far off the count of parameters may be, as a share of it."""
    counted, vision = count_parameters(shape), vision_parameters(shape) or 0
    of_vision = shape.encoder.doubt if shape.encoder and _siglip_parameters(shape) is None else 0.0
    return (shape.doubt * (counted - vision) + of_vision * vision) / counted if counted else shape.doubt


def active_parameters(shape: Shape) -> int:
    """Parameters that one token is multiplied with: only the experts it is routed to, no embedding."""
    parts = all_layers(shape)
    used = parts.experts * shape.experts.per_token // shape.experts.count if shape.experts else 0
    return parts.total - parts.experts + used + shape.vocabulary * shape.hidden


def vision_parameters(shape: Shape) -> int | None:
    """A SigLIP tower with Gemma 3's projector, exactly, or another encoder; 0 without one, None if it is unknown."""
    exact = _siglip_parameters(shape) if shape.vision is not None else 0
    if exact is not None and (exact or shape.encoder is None):
        return exact
    return shape.encoder.parameters if shape.encoder else None


def _siglip_parameters(shape: Shape) -> int | None:
    if shape.vision is None:
        return None
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
