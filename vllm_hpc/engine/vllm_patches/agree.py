"""Whether all ranks of a replica can do what only all of them can do together."""

from __future__ import annotations

from torch import distributed, tensor


def all_can(this_rank_can: bool) -> bool:
    """Whether every rank says so. A collective: all ranks of the replica call it, whatever they say.

    vLLM's group for the CPU carries it: a communicator for GPUs would take memory that the KV cache has by now.
    """
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return this_rank_can
    from vllm.distributed.parallel_state import get_world_group

    votes = tensor([int(this_rank_can)])
    distributed.all_reduce(votes, distributed.ReduceOp.MIN, group=get_world_group().cpu_group)
    return bool(votes.item())
