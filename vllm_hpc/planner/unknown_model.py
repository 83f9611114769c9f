"""Lays out a model of which at most the size of its weights is known: on enough GPUs, never on one by default."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.planner.choose_layout import ASSUMED_NODE
from vllm_hpc.planner.memory import COLLECTIVES_BYTES, CONTEXT_BYTES, UTILIZATION
from vllm_hpc.planner.models.weights import Weights
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.plan import Memory
from vllm_hpc.spec.resolved_job import ResolvedJob
from vllm_hpc.spec.solve_layout import Asked

# Of a GPU's memory, what is to be left for KV cache and activations where neither can be computed.
ROOM_SHARE = 0.15


class Size(msgspec.Struct, frozen=True):
    """Bytes of all weights, and those that a GPU has for weights; None if unknown."""

    weights: int | None
    room: int | None

    @classmethod
    def of(cls, weights: Weights | None, job: ResolvedJob) -> Size:
        """What is known of a model's size and of the job's GPUs."""
        gpu = job.device.gpu if job.device else None
        room = (
            int(gpu.memory_gib * GIB * (UTILIZATION - ROOM_SHARE)) - CONTEXT_BYTES - COLLECTIVES_BYTES if gpu else None
        )
        return cls(weights.loaded_bytes(2) if weights else None, room)

    @property
    def gpus(self) -> int | None:
        """The smallest power of two of GPUs that hold the weights."""
        if self.weights is None or self.room is None:
            return None
        count = 1
        while self.weights / count > max(1, self.room):
            count *= 2
        return count

    def memory(self, ranks: int) -> Memory:
        """What is known of the plan's memory."""
        if self.weights is None:
            return Memory()
        whole = self.weights / GIB
        return Memory(weights_gib=round(whole, 2), weights_gib_per_gpu=round(whole / ranks, 2))


def fill_in(asked: Asked, size: Size, capacity: int | None) -> tuple[Asked, list[str]]:
    """The numbers that were asked for, with TP and PP if nobody has said how to divide the GPUs; and why."""
    given: tuple[Any, ...] = (asked.tp, asked.pp, asked.dp, asked.attention_dp)
    if asked.spreads or any(number is not None for number in given):
        return asked, []
    node = asked.gpus_per_node or capacity
    if size.gpus is None:
        if node is None or node == 1:
            return asked, []
        why = f"TP {node}: the whole node, for the size of the model is not known"
        return msgspec.structs.replace(asked, tp=node, pp=1), [why]
    node = node or ASSUMED_NODE
    tp = min(size.gpus, _power_of_two(node))
    pp = -(-size.gpus // tp)
    assert size.weights is not None
    cut = f"TP {tp} × PP {pp}" if pp > 1 else f"TP {tp}"
    why = f"{cut}: its weights, {size.weights / GIB:.0f} GiB, need {tp * pp} of these GPUs"
    return msgspec.structs.replace(asked, tp=tp, pp=pp), [why]


def _power_of_two(node: int) -> int:
    """The largest power of two of GPUs in a node: most models can be split by that."""
    return 1 << (node.bit_length() - 1)
