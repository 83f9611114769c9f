"""A replica: the ranks that hold one copy of the model, a part of the torchrun world.

vLLM uses the whole world for one engine, but skips its own set-up if torch.distributed is already initialised. So each
replica is initialised here, under its own prefix in the store that torchrun's agent runs. RANK and WORLD_SIZE then give
the place in the replica. LOCAL_RANK stays: it selects the GPU.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.loop.lockstep import DivergedError, Lockstep
from vllm_hpc.spec.layout import Layout, Place

# Ranks of one job start at nearly the same time, once the job has left the queue. A late rank will not come.
_JOIN_TIMEOUT = timedelta(minutes=10)
_LEAVE_POLL_S = 0.5


class Replica:
    """This rank's replica, initialised. ``device`` is the torch device that the rank computes on.

    ``size`` is how many ranks run its loop; ``cpu_group`` gives the group over which these agree, once the engine has
    started.
    """

    def __init__(self, place: Place, device: str, size: int, cpu_group: Callable[[], Any]) -> None:
        self.place, self.device, self._size, self._cpu_group = place, device, size, cpu_group

    def lockstep(self) -> Lockstep:
        """How its ranks agree, over the replica's own CPU group."""
        group = self._cpu_group() if self._size > 1 else None
        return Lockstep(self.place.rank, self.place.replica, group)

    def check_digests(self, digest: str) -> None:
        """Compare what all ranks of the replica generated. Raises DivergedError if they differ."""
        if self._size == 1:
            return
        digests: list[Any] = [None] * self._size
        dist.all_gather_object(digests, digest, group=self._cpu_group())
        if len(set(digests)) > 1:
            raise DivergedError(f"the ranks of replica {self.place.replica} diverged: digests {digests}")


def meet(rank: int, world_size: int) -> TCPStore:
    """Join this world's store, which torchrun's agent on the head runs, or rank 0 without torchrun.

    Raises RuntimeError with the ranks that did not connect in time.
    """
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    store = TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=is_host,
        wait_for_workers=False,
        timeout=_JOIN_TIMEOUT,
    )
    store.set(f"vllm-hpc/here/{rank}", node_name())
    try:
        store.wait([f"vllm-hpc/here/{other}" for other in range(world_size)], _JOIN_TIMEOUT)
    except dist.DistStoreError:
        missing = [other for other in range(world_size) if not store.check([f"vllm-hpc/here/{other}"])]
        raise RuntimeError(f"ranks {missing} did not connect to rank 0 within {_JOIN_TIMEOUT}") from None
    return store


def leave_together(store: TCPStore, rank: int, world_size: int) -> None:
    """Wait until every rank of this world is done; the store's host leaves last."""
    _wait_for_all(store, "vllm-hpc/done", world_size)
    if rank:
        store.add("vllm-hpc/left", 1)
    else:
        _wait_for_all(store, "vllm-hpc/left", world_size)


def _wait_for_all(store: TCPStore, key: str, world_size: int) -> None:
    store.add(key, 1)
    while store.add(key, 0) < world_size:
        time.sleep(_LEAVE_POLL_S)


def join(
    layout: Layout, place: Place, store: TCPStore, backend: str, device: str, cpu_group: Callable[[], Any]
) -> Replica:
    """Initialise torch.distributed over this rank's replica, with that back-end."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(place.rank), str(layout.replica_size)
    dist.init_process_group(
        backend=backend,
        store=PrefixStore(f"vllm-hpc/replica/{place.replica}/", store),
        rank=place.rank,
        world_size=layout.replica_size,
    )
    return Replica(place, device, layout.replica_size, cpu_group)
