"""Computes whether a model fits: weights, reserve and KV cache of the fullest rank. Pure arithmetic, in bytes.

It follows vLLM's own accounting (v1/worker/gpu_worker.py, determine_available_memory; v1/core/kv_cache_utils.py):
what is left of ``gpu_memory_utilization`` after the weights, the peak of a profiling run and the CUDA context is
split into KV cache blocks. Constants marked "measured" are from vLLM 0.26 on an H100
(benchmarks/kv_capacity.py compares prediction and engine).
"""

from __future__ import annotations

from math import ceil
from typing import NamedTuple

import msgspec

from vllm_hpc.planner.kv_cache import block_bytes, blocks_of_sequence, state_bytes_on_rank, token_bytes
from vllm_hpc.planner.load import Load
from vllm_hpc.planner.models.count import (
    LayerParts,
    all_layers,
    doubt_of,
    embedding,
    head,
    layer_parts,
    padded_vocabulary,
    vision_parameters,
)
from vllm_hpc.planner.models.shape import Shape, in_lanes
from vllm_hpc.planner.models.weights import Weights
from vllm_hpc.spec.gpus import GIB

# The CUDA context and its libraries, and what NCCL and the custom all-reduce add with several ranks (measured).
CONTEXT_BYTES = int(0.25 * GIB)
COLLECTIVES_BYTES = int(0.65 * GIB)
# vLLM reserves memory for CUDA graphs for mixtures of experts, but not (0.26) for dense models (measured).
GRAPHS_BYTES = int(0.65 * GIB)
# Bytes per logit of a full batch: float32, and the copies that sampling sorts (measured: 15.8 to 16.3).
SAMPLER_BYTES = 16
# A Python process with torch and vLLM on the CPU, without weights.
CPU_PROCESS_BYTES = int(1.5 * GIB)


class Fit(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the fullest rank of a layout; ``kv_tokens`` is what vLLM logs as the KV cache size.

    ``weights`` is for the whole model, the others are per rank; ``asked_kv`` is a KV cache size that was given.
    ``sequences``: how many of max_model_len tokens fit at once; a negative ``kv`` is the missing amount.
    ``state``: bytes of a sequence whatever its length, ``token``: of each of its tokens, where layers keep a state.
    """

    weights: int
    rank_weights: int
    reserve: int
    kv: int
    limit: int
    kv_tokens: int
    sequences: float
    asked_kv: int | None = None
    state: float = 0.0
    token: float = 0.0

    def room(self, tokens: float) -> float:
        """Sequences of so many tokens that fit at once."""
        if self.state:
            return max(0, self.kv) / (max(1.0, tokens) * self.token + self.state)
        return self.kv_tokens / max(1.0, tokens)

    @property
    def fits(self) -> bool:
        """vLLM's own condition: one sequence of max_model_len tokens."""
        return self.sequences >= 1


def weigh(shape: Shape, weights: Weights | None, load: Load) -> tuple[float, float]:
    """All weights in bytes, and their ratio to the count from config.json. ``weights`` None: use the count."""
    shape = in_lanes(shape, 1)
    counted = sum(_stage_bytes(shape, load, 1, 1, 0))
    if weights is None:  # of what is not known exactly, the most
        return counted * (1 + doubt_of(shape)), 1.0 + doubt_of(shape)
    exact = float(weights.loaded_bytes(load.weight_bytes))
    if load.quantization and not shape.quantization and load.quantization.bits:
        exact *= counted / sum(_stage_bytes(shape, msgspec.structs.replace(load, quantization=None), 1, 1, 0))
    return exact, exact / counted


def fit_on_gpu(shape: Shape, weights: Weights | None, load: Load, tp: int, pp: int, gpu_bytes: int) -> Fit:
    """Memory of the fullest of TP × PP ranks, each with a GPU of that size."""
    reserve = (
        CONTEXT_BYTES
        + COLLECTIVES_BYTES * (tp * pp * (shape.experts.lanes if shape.experts else 1) > 1)
        + _activations(shape, load, tp)
    )
    reserve += GRAPHS_BYTES if shape.experts else 0
    # A KV cache given in bytes ignores gpu_memory_utilization (gpu_worker.py).
    limit = gpu_bytes if load.kv_cache_bytes else int(gpu_bytes * load.utilization)
    return _fit(shape, weights, load, tp, pp, _Room(limit, reserve))


def fit_on_cpu(shape: Shape, weights: Weights | None, load: Load, tp: int, pp: int, rank_bytes: int) -> Fit:
    """The same for ranks on the CPU, with ``rank_bytes`` of the node's memory each and a KV cache of a given size."""
    return _fit(shape, weights, load, tp, pp, _Room(rank_bytes, CPU_PROCESS_BYTES))


class _Room(NamedTuple):
    """Bytes of a rank: its limit, and the part that is neither weights nor KV cache."""

    limit: int
    reserve: int


def _fit(shape: Shape, weights: Weights | None, load: Load, tp: int, pp: int, room: _Room) -> Fit:
    total, scale = weigh(shape, weights, load)
    stages = [ceil(scale * sum(_stage_bytes(shape, load, tp, pp, stage))) for stage in range(pp)]
    layers = [len(_stage_layers(shape.layers, pp, stage)) for stage in range(pp)]
    blocks, kv = None, 0
    for stage_weights, stage_layers in zip(stages, layers, strict=True):
        left = room.limit - stage_weights - room.reserve
        cache = left if load.kv_cache_bytes is None else min(load.kv_cache_bytes, left)
        stage_blocks = int(cache // block_bytes(shape, load, tp, stage_layers))
        if load.kv_cache_bytes is not None and left < load.kv_cache_bytes:
            stage_blocks = 0
        if blocks is None or stage_blocks < blocks:
            blocks, kv = stage_blocks, cache
    sequences = max(0, blocks or 0) / blocks_of_sequence(shape, load)
    return Fit(
        weights=int(total), rank_weights=max(stages), reserve=room.reserve, kv=kv, limit=room.limit,
        kv_tokens=int(sequences * load.max_model_len), sequences=sequences,
        asked_kv=load.kv_cache_bytes, state=_share(shape, pp) * state_bytes_on_rank(shape, tp),
        token=_share(shape, pp) * token_bytes(shape, load, tp),
    )  # fmt: skip


def _share(shape: Shape, pp: int) -> float:
    """The part of all layers that the largest PP stage has."""
    return max(len(_stage_layers(shape.layers, pp, stage)) for stage in range(pp)) / shape.layers


def _activations(shape: Shape, load: Load, tp: int) -> int:
    """The peak of the profiling run: an MLP on a full batch of tokens, or the sampler on a full batch of rows.

    A mixture of experts keeps its workspace while sampling (measured on Qwen3-30B-A3B).
    """
    tokens, element = load.max_num_batched_tokens, load.weight_bytes
    hidden = 3 * tokens * shape.hidden * element
    width = shape.width if shape.dense_layers else (shape.experts.shared if shape.experts else 0)
    mlp = tokens * (3 if shape.family.gated_mlp else 2) * width // tp * element
    sampler = load.max_num_seqs * shape.vocabulary * SAMPLER_BYTES
    if not shape.experts:
        return max(hidden + mlp, sampler)
    return max(hidden + mlp, sampler) + _experts_workspace(shape, tokens, tp) * element


def _experts_workspace(shape: Shape, tokens: int, tp: int) -> int:
    """Elements that a layer of experts needs for the routed tokens, and for those that lanes exchange."""
    experts = shape.experts
    assert experts is not None
    if experts.lanes == 1:
        return tokens * experts.per_token * (shape.hidden + experts.width // tp)
    # Every lane's tokens come to every rank, in both of the Triton kernel's workspaces, and their sums go back
    # (model_executor/layers/fused_moe: TritonExperts.workspace_shapes).
    gathered, width = experts.lanes * tokens, experts.width // (tp * experts.lanes if experts.is_cut else 1)
    routed = gathered * experts.per_token * (max(width, shape.hidden) + max(2 * width, shape.hidden))
    return routed + 2 * (gathered - tokens) * shape.hidden


def _stage_bytes(shape: Shape, load: Load, tp: int, pp: int, stage: int) -> tuple[float, float]:
    """Counted weights of a rank of a PP stage: its layers, and what comes before and after them."""
    quantization = shape.quantization or load.quantization
    plain = float(load.weight_bytes)
    packed = quantization.bits / 8 if quantization and quantization.bits else plain
    linear = plain if quantization and quantization.only_experts else packed

    def size(parts: LayerParts) -> float:
        experts = parts.experts * _experts_share(shape, tp)
        return _rank_elements(parts, shape, tp) * linear + experts * packed + parts.small * plain

    own = _stage_layers(shape.layers, pp, stage)
    if shape.is_uneven or shape.mlp_weights is not None:  # which layers are of which kind is not known
        layers = len(own) / shape.layers * size(all_layers(shape))
    else:
        layers = sum(size(layer_parts(shape, is_mixture=_is_mixture(shape, layer))) for layer in own)
    ends = 0.0
    rows = padded_vocabulary(shape) / shape.vocabulary / tp
    if stage == 0:
        ends += embedding(shape) * rows + (vision_parameters(shape) or 0) + shape.extra
    if stage == pp - 1:
        ends += (head(shape) or (embedding(shape) if pp > 1 else 0)) * rows + shape.hidden
    return layers, ends * plain


def _rank_elements(parts: LayerParts, shape: Shape, tp: int) -> float:
    """Elements of a layer's linear parts on one rank: KV heads are repeated if there are fewer than ranks."""
    return parts.split / tp + parts.kv * max(1 / tp, 1 / max(1, shape.kv_heads)) + parts.whole


def _experts_share(shape: Shape, tp: int) -> float:
    """The part of a layer's experts on the fullest rank: of every expert, or whole ones."""
    if shape.experts is None:
        return 1.0
    ranks = tp * shape.experts.lanes
    return 1 / ranks if shape.experts.is_cut else ceil(shape.experts.count / ranks) / shape.experts.count


def _is_mixture(shape: Shape, layer: int) -> bool:
    """Dense layers of a mixture come first (DeepSeek); if they are spread, only their number matters here."""
    return shape.experts is not None and layer >= shape.dense_layers


def _stage_layers(layers: int, pp: int, stage: int) -> range:
    """The layers of a PP stage; a remainder goes to the stages before the last (distributed/utils.py)."""
    counts = [layers // pp] * pp
    for place in range(2, layers % pp + 2):
        counts[-place] += 1
    return range(sum(counts[:stage]), sum(counts[: stage + 1]))
