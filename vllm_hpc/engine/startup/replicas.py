"""A replica: the ranks that hold one copy of the model, a part of the torchrun world.

vLLM uses the whole world for one engine, but skips its own set-up if torch.distributed is already initialised. So each
replica is initialised here, under its own prefix in the job's store (engine/store), which asks for the job's secret:
any user of the machine can change what is in a store of torch's, and with that where ranks connect to. RANK and
WORLD_SIZE then give the place in the replica. LOCAL_RANK stays: it selects the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store

from vllm_hpc.engine.loop.lanes import GroupedLanes, Lanes
from vllm_hpc.engine.loop.lockstep import DivergedError, Lockstep
from vllm_hpc.engine.startup import gloo_peers, meeting
from vllm_hpc.engine.startup.meeting import Meeting
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.torch_store import TorchStore
from vllm_hpc.spec.layout import Layout, Place


class Replica:
    """This rank's replica, initialised. ``device`` is the torch device that the rank computes on.

    ``size`` is how many ranks run its loop, in ``lanes`` of as many; ``cpu_group`` gives the group of them all, once
    the engine has started.
    """

    def __init__(self, place: Place, device: str, size: int, cpu_group: Callable[[], Any], lanes: int = 1) -> None:
        self.place, self.device, self._size, self._count, self._cpu_group = place, device, size, lanes, cpu_group

    def lockstep(self) -> Lockstep:
        """How the ranks of its lane agree, over a CPU group of their own."""
        return Lockstep(self.place.lane_rank, self.place.replica, self._lane_group)

    def lanes(self) -> Lanes | None:
        """How its lanes meet before each turn, over the replica's CPU group; None if there is one."""
        return GroupedLanes(self._cpu_group(), self.place.lane) if self._count > 1 else None

    @cached_property
    def _lane_group(self) -> Any:
        """The CPU group of this rank's lane; None if it has one rank. All ranks of the replica make all groups."""
        size = self._size // self._count
        if size == 1 or self._count == 1:
            return self._cpu_group() if size > 1 else None
        groups = [
            dist.new_group(list(range(first, first + size)), backend="gloo") for first in range(0, self._size, size)
        ]
        return groups[self.place.rank // size]

    def check_digests(self, digest: str) -> None:
        """Compare what all ranks of the lane generated. Raises DivergedError if they differ."""
        digests = [one.decode() for one in self.lockstep().gather(digest.encode())]
        if len(set(digests)) > 1:
            raise DivergedError(f"the ranks of replica {self.place.replica} diverged: digests {digests}")


class World(NamedTuple):
    """What the ranks of one torchrun world share: the job's store, and the same one for torch's process groups."""

    meeting: Meeting
    torch_store: Store

    @property
    def store(self) -> JobStore:
        """The job's store."""
        return self.meeting.store

    @property
    def rank(self) -> int:
        """This rank's number in the world."""
        return self.meeting.rank

    @property
    def size(self) -> int:
        """How many ranks the world has."""
        return self.meeting.size

    def leave(self) -> None:
        """Wait until every rank is done; the host of the stores, rank 0, leaves last."""
        self.meeting.leave()


def meet(secret: bytes, rank: int, world_size: int) -> World:
    """Meet the other ranks of this world in the job's store.

    Raises RuntimeError with the ranks that did not connect in time.
    """
    met = meeting.meet(secret, rank, world_size)
    return World(met, TorchStore(met.connect, meeting.JOIN_TIMEOUT))


def join(
    layout: Layout, place: Place, world: World, backend: str, device: str, cpu_group: Callable[[], Any]
) -> Replica:
    """Initialise torch.distributed over this rank's replica, with that back-end. Raises ForeignRankError."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(place.rank), str(layout.replica_size)
    dist.init_process_group(
        backend=backend,
        store=PrefixStore(f"vllm-hpc/replica/{place.replica}/", world.torch_store),
        rank=place.rank,
        world_size=layout.replica_size,
    )
    gloo_peers.check_all(world.store, place)
    return Replica(place, device, layout.replica_size, cpu_group, layout.attention_dp)
