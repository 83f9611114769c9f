"""Shape: what determines a model's memory and speed, as read from its config.json."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.models.families import Family
from vllm_hpc.planner.models.quantization import Quantization


class Mla(msgspec.Struct, frozen=True):
    """Multi-head latent attention (DeepSeek): the ranks and widths of its projections, in elements.

    ``caches_heads``: vLLM keeps every head's keys and values, not the latent (MiniCPM3).
    """

    kv_rank: int
    rope_dim: int
    nope_dim: int
    v_dim: int
    q_rank: int | None
    caches_heads: bool = False


class Experts(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture of experts: how many, how wide, and in how many layers.

    ``shared`` is the shared expert's width. ``is_cut``: each TP rank holds an equal part of every expert. ``lanes``:
    how many TP groups of a replica have the experts together.
    """

    count: int
    per_token: int
    width: int
    layers: int
    shared: int = 0
    shared_gate: bool = False
    router_bias: bool = False
    biases: bool = False
    is_cut: bool = True
    lanes: int = 1


class State(msgspec.Struct, frozen=True, kw_only=True):
    """Layers that keep a state of fixed size for a sequence (Mamba, linear attention, convolutions).

    ``parameters`` are a layer's own, which TP splits; ``bytes`` is a sequence's state in one layer, over all TP ranks.
    ``cuts``: what must be divisible by the number of TP ranks. ``beside``: the layers have attention, too.
    """

    kind: str
    layers: int
    parameters: int
    bytes: int
    cuts: tuple[tuple[str, int], ...] = ()
    beside: bool = False


class Heads(msgspec.Struct, frozen=True):
    """The attention of some layers, where it is not as wide as that of the others."""

    heads: int
    kv_heads: int
    head_dim: int
    v_dim: int


class Encoder(msgspec.Struct, frozen=True, kw_only=True):
    """What reads images, audio or video before the decoder does; ``parameters`` None if they cannot be counted.

    ``image_tokens``: of an image, the fewest and the most; None if unknown. ``doubt``: how far off the count may be.
    """

    parameters: int | None
    image_tokens: tuple[int, int] | None = None
    heads: int | None = None
    doubt: float = 0.0


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What determines a model's memory. Widths in elements; ``window`` in tokens, for ``window_layers`` layers.

    ``bare_layers`` have neither attention nor a state; ``shared_kv`` layers use the KV cache of another one.
    ``mlp_layers``: those with a plain MLP, None: all without experts. ``query_parts`` is 2 where a gate is as wide as
    the queries. ``attention_weights``, ``mlp_weights``: layers with weights of their own, where others use these again;
    None: all. ``attention_extra``: more parameters of each layer with attention, ``extra``: of the whole model, on
    every rank. ``index_bytes``: of a token and layer, besides keys and values (sparse attention). ``doubt``: how far
    off the count of parameters may be, as a share; 0 for classes of the planner's table.
    """

    architecture: str
    family: Family
    hidden: int
    layers: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    norms: int
    tied: bool
    dtype: str
    positions: int
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    window: int | None = None
    window_layers: int = 0
    window_heads: Heads | None = None
    mla: Mla | None = None
    experts: Experts | None = None
    state: State | None = None
    bare_layers: int = 0
    shared_kv: int = 0
    mlp_layers: int | None = None
    v_dim: int | None = None
    query_parts: int = 1
    attention_extra: int = 0
    attention_weights: int | None = None
    mlp_weights: int | None = None
    extra: int = 0
    index_bytes: int = 0
    quantization: Quantization | None = None
    vision: dict[str, Any] | None = None
    encoder: Encoder | None = None
    doubt: float = 0.0

    @property
    def attention_layers(self) -> int:
        """Layers with attention."""
        return self.layers - self.bare_layers - (self.state.layers if self.state and not self.state.beside else 0)

    @property
    def kv_layers(self) -> int:
        """Layers with keys and values of their own."""
        return self.attention_layers - self.shared_kv

    @property
    def full_layers(self) -> int:
        """Layers with full attention."""
        return self.kv_layers - self.window_layers

    @property
    def dense_layers(self) -> int:
        """Layers with a plain MLP."""
        if self.mlp_layers is not None:
            return self.mlp_layers
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def is_uneven(self) -> bool:
        """Whether layers differ by more than their MLPs and windows."""
        return bool(self.state or self.bare_layers or self.shared_kv or self.window_heads)


def with_whole_experts(shape: Shape) -> Shape:
    """The shape under expert parallelism: ranks hold whole experts, whose width is not split."""
    if shape.experts is None:
        return shape
    return msgspec.structs.replace(shape, experts=msgspec.structs.replace(shape.experts, is_cut=False))


def in_lanes(shape: Shape, lanes: int, is_cut: bool = False) -> Shape:
    """The shape in replicas of so many lanes; the ranks of several hold whole experts, each a part of them.

    ``is_cut``: they hold a part of every expert.
    """
    experts = shape.experts
    if experts is None or lanes == experts.lanes:
        return shape
    is_cut = experts.is_cut and (is_cut or lanes == 1)
    return msgspec.structs.replace(shape, experts=msgspec.structs.replace(experts, is_cut=is_cut, lanes=lanes))
