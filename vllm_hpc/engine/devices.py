"""Which GPUs a rank sees: those of its replica on this node, numbered from 0, as if the replica were alone.

vLLM keys its compile cache by the rank in the replica, and compiled kernels carry the device they were made for: with
all GPUs in sight, replica 1's rank 0 on cuda:1 would load what replica 0's made for cuda:0 and die of an 'invalid
argument' (seen on two H100, vLLM 0.26).
"""

from __future__ import annotations

import os

from vllm_hpc.layout import Layout

VARIABLE = "CUDA_VISIBLE_DEVICES"  # HIP honours it too


def show_only_own(layout: Layout, rank: int, local_rank: int) -> None:
    """Set CUDA_VISIBLE_DEVICES and LOCAL_RANK for this process; before torch is imported.

    ``rank`` is in the torchrun world, ``local_rank`` on this node. One replica for the whole world keeps what it has.
    """
    if layout.replica_size >= layout.world_size:
        return
    given = os.environ.get(VARIABLE)
    visible = given.split(",") if given else [str(number) for number in range(layout.procs_per_node)]
    if len(visible) < layout.procs_per_node:  # one GPU a task: the scheduler has shared them out already
        return
    first, count = own_slots(layout, rank, local_rank)
    os.environ[VARIABLE] = ",".join(visible[first : first + count])
    os.environ["LOCAL_RANK"] = str(local_rank - first)


def own_slots(layout: Layout, rank: int, local_rank: int) -> tuple[int, int]:
    """The first slot of this node that this rank's replica has, and how many it has here."""
    node_begin = rank - local_rank
    replica_begin = rank - rank % layout.replica_size
    begin = max(node_begin, replica_begin)
    end = min(node_begin + layout.procs_per_node, replica_begin + layout.replica_size)
    return begin - node_begin, end - begin
