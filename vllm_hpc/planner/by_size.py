"""The layout of a model of which at most the size is known: a replica holds its weights, evenly split.

What is not known, its layers, heads and KV cache, has a share of each GPU. If not even the size is known, a replica
has a whole node: on fewer GPUs it might not start.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from vllm_hpc.planner.load import UTILIZATION
from vllm_hpc.planner.memory import COLLECTIVES_BYTES, CONTEXT_BYTES, GRAPHS_BYTES
from vllm_hpc.planner.possible_layouts import ASSUMED, ASSUMED_NODE, Solver, is_open
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.errors import LayoutError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Memory
from vllm_hpc.spec.solve_layout import Asked, any_model

ASSUMED_GIB = 79.2  # of a GPU that is not known: an H100's or A100's
# Activations of a batch of tokens: 2 to 3 GiB for models of 70 to 700 GB (planner/memory.py, _activations).
ACTIVATIONS_BYTES = int(2.5 * GIB)
# Of a GPU, for a KV cache of which nothing is known: 8 GiB of 80 hold 128 sequences of 2048 tokens of most large models
# over 8 GPUs.
KV_SHARE = 0.1
MOST_STAGES = 64


class BySize(NamedTuple):
    """A layout by size; ``fits`` None if the size or the device is unknown."""

    layout: Layout
    reasons: tuple[str, ...]
    fits: bool | None
    memory: Memory = Memory()


class Sized(NamedTuple):
    """The weights in bytes, None if unknown, and what ranks run on."""

    weights: int | None
    device: Device | None
    utilization: float = UTILIZATION

    @property
    def gpu_gib(self) -> float:
        """A GPU's memory."""
        return self.device.gpu.memory_gib if self.device and self.device.gpu else ASSUMED_GIB

    def needs(self, ranks: int) -> float:
        """Bytes of each of a replica's GPUs, without a KV cache."""
        reserve = CONTEXT_BYTES + GRAPHS_BYTES + ACTIVATIONS_BYTES + COLLECTIVES_BYTES * (ranks > 1)
        return (self.weights or 0) / ranks + reserve

    def fits(self, ranks: int, kv_share: float = 0.0) -> bool:
        """Whether a replica of so many GPUs holds the weights, and a KV cache of that share of a GPU."""
        whole = self.gpu_gib * GIB
        return self.needs(ranks) + kv_share * whole <= self.utilization * whole


def layout_by_size(asked: Asked, capacity: int | None, sized: Sized, solve: Solver) -> BySize:
    """Complete a layout. Raises LayoutError if the numbers do not match each other."""
    cuts = () if asked.spreads or asked.attention_dp else _cuts(asked, capacity, sized)
    for tp, pp in cuts:
        node = ASSUMED_NODE if is_open(asked, capacity) and tp * pp >= ASSUMED_NODE else capacity
        try:
            layout, reasons = solve(msgspec.structs.replace(asked, tp=tp, pp=pp), node, any_model, False)
        except LayoutError:
            continue
        if node != capacity:
            reasons = [ASSUMED, *reasons]
        return _told(layout, reasons, sized)
    layout, reasons = solve(asked, capacity, any_model, True)
    return _told(layout, reasons, sized)


def _cuts(asked: Asked, capacity: int | None, sized: Sized) -> Iterator[tuple[int, int]]:
    """The splits to try, the wanted one first: smaller ones only if the asked numbers leave no other."""
    node = asked.gpus_per_node or capacity or ASSUMED_NODE
    inside = [tp for tp in (1, 2, 4, 8, 16, node) if tp <= node]
    tps = [asked.tp] if asked.tp else sorted(set(inside))
    if sized.weights is None:
        yield from ((tp, asked.pp or 1) for tp in reversed(tps))
        return
    stages = [asked.pp] if asked.pp else range(1, MOST_STAGES + 1)
    for share in (KV_SHARE, 0.0):
        yield from ((tp, stages[0]) for tp in tps if sized.fits(tp * stages[0], share))
        yield from ((tps[-1], pp) for pp in stages if sized.fits(tps[-1] * pp, share))
    yield from ((tps[-1], pp) for pp in reversed(stages))
    yield from ((tp, stages[0]) for tp in reversed(tps))


def _told(layout: Layout, reasons: list[str], sized: Sized) -> BySize:
    ranks = layout.replica_size
    if sized.weights is None:
        why = f"TP {layout.tp}: the size of the model is not known, so a replica has all GPUs of a node"
        return BySize(layout, (*reasons, why), None)
    size, each = sized.weights / GIB, sized.weights / ranks / GIB
    where = "" if sized.device else f"; the GPU is not known: one of {sized.gpu_gib:.0f} GiB is assumed"
    why = (
        f"TP {layout.tp} × PP {layout.pp} × DP {layout.dp}: by the size of the weights, {size:.1f} GiB, {each:.1f} GiB "
        f"on each GPU if they are split evenly; KV cache and layers are not known{where}"
    )
    fits = sized.fits(ranks) if sized.device else None
    left = sized.utilization * sized.gpu_gib - sized.needs(ranks) / GIB
    memory = Memory(
        weights_gib=round(size, 2), weights_gib_per_gpu=round(each, 2), per_gpu_gib=round(sized.needs(ranks) / GIB, 2),
        gpu_gib=round(sized.gpu_gib, 2), kv_gib_per_gpu=round(max(0.0, left), 2),
    ) if sized.device else Memory(weights_gib=round(size, 2))  # fmt: skip
    return BySize(layout, (*reasons, why), fits, memory)


def misfit(by_size: BySize) -> str:
    """Why the weights do not fit, and what to do."""
    memory, layout = by_size.memory, by_size.layout
    return (
        f"does not fit with TP = {layout.tp}, PP = {layout.pp}: weights {memory.weights_gib} GiB, even if they are "
        "split evenly: leave --tp, --pp and --dp out, or use more nodes, or a quantised model"
    )
