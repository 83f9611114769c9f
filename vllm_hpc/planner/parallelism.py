"""How vLLM can split a model: the valid numbers of TP ranks and PP stages.

The rules are vLLM's own (config/model.py, verify_with_parallel_config; distributed/utils.py, divide; the parallel
layers under model_executor/layers); tests/planner/test_parallelism.py asks vLLM itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.count import VOCABULARY_PADDING, padded_vocabulary
from vllm_hpc.planner.models.quantization import Quantization
from vllm_hpc.spec.words import counted

MOST_TP = 1024


def tp_obstacles(shape: Shape, tp: int, quantization: Quantization | None = None) -> list[str]:
    """Why the model cannot be split over ``tp`` ranks, each reason with its numbers; empty if it can."""
    return list(_obstacles(shape, tp, shape.quantization or quantization)) if tp > 1 else []


def allowed_tp(shape: Shape, quantization: Quantization | None = None, most: int = MOST_TP) -> list[int]:
    """All TP sizes that the model can be split by, in order."""
    limit = min(most, max(shape.heads, *(number for _, number in shape.state.cuts)) if shape.state else shape.heads)
    return [tp for tp in range(1, limit + 1) if not tp_obstacles(shape, tp, quantization)]


def why_not(shape: Shape, tp: int, pp: int, quantization: Quantization | None = None) -> str | None:
    """Why vLLM would refuse this split, and which sizes it accepts; None if it would not."""
    if obstacles := tp_obstacles(shape, tp, quantization):
        allowed = one_of(allowed_tp(shape, quantization))
        return f"TP = {tp} does not work with this model ({'; '.join(obstacles)}): TP can be {allowed}"
    if pp > shape.layers:
        return f"PP = {pp}, but the model has {counted(shape.layers, 'layer')}: PP can be 1 to {shape.layers}"
    return None


def why_not_experts(shape: Shape, tp: int) -> str | None:
    """Why vLLM would refuse these experts on all ranks of a replica's lanes of TP ranks; None if it would not."""
    experts = shape.experts
    if experts is None:
        return None
    ranks, number = tp * experts.lanes, f"TP × attention DP = {tp * experts.lanes}"
    if not experts.is_cut and ranks > experts.count:
        return f"{number} ranks, but the model has {experts.count} experts to divide: use at most {experts.count}"
    if experts.is_cut and experts.lanes > 1 and experts.width % ranks:
        return f"expert's intermediate size {experts.width} is not divisible by {number}: change one of them"
    return None


def one_of(numbers: list[int], shown: int = 8) -> str:
    """'1, 2 or 4'; of many, the first ones and the last."""
    texts = [str(number) for number in numbers[:shown]]
    if len(numbers) > shown:
        return f"{', '.join(texts)} ... {numbers[-1]}"
    return f"{', '.join(texts[:-1])} or {texts[-1]}" if len(texts) > 1 else texts[0]


def _obstacles(shape: Shape, tp: int, quantization: Quantization | None) -> Iterator[str]:
    yield from _uneven_heads(shape, tp)
    for what, width in _widths(shape):
        if width % tp:
            yield f"{what} {width} is not divisible by {tp}"
    if quantization and quantization.group:
        yield from _torn_groups(shape, tp, quantization.group)
    padded = padded_vocabulary(shape)
    if padded % tp:
        yield f"vocabulary {padded} (padded to a multiple of {VOCABULARY_PADDING}) is not divisible by {tp}"


def _uneven_heads(shape: Shape, tp: int) -> Iterator[str]:
    if shape.heads % tp:
        yield f"{shape.heads} attention heads are not divisible by {tp}"
    if shape.state:
        for what, number in shape.state.cuts:
            if number % tp:
                yield f"{number} {what} are not divisible by {tp}"
    if shape.kv_heads and not shape.mla:
        more, fewer = max(shape.kv_heads, tp), min(shape.kv_heads, tp)
        if more % fewer:
            yield f"{shape.kv_heads} KV heads and {tp} ranks: neither divides the other"


def _torn_groups(shape: Shape, tp: int, group: int) -> Iterator[str]:
    for what, width in _inputs(shape):
        if width % tp == 0 and (width // tp) % group:
            yield f"{what} {width} / {tp} is not a multiple of the quantisation's group of {group}"


def _inputs(shape: Shape) -> Iterator[tuple[str, int]]:
    """The widths along which the input of a projection is split: each rank must hold whole quantisation groups."""
    if shape.heads and not shape.mla:
        yield "attention width", shape.heads * shape.head_dim
    yield from _widths(shape)


def _widths(shape: Shape) -> Iterator[tuple[str, int]]:
    """The inner widths that are split: those of MLPs, experts and shared experts."""
    if shape.dense_layers:
        yield "intermediate size", shape.width
    if shape.experts:
        if shape.experts.is_cut:
            yield "expert's intermediate size", shape.experts.width
        if shape.experts.shared:
            yield "shared expert's intermediate size", shape.experts.shared
