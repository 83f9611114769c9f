"""A replica: the ranks that hold one copy of the model, a part of the torchrun world.

vLLM uses the whole world for one engine, but skips its own set-up if torch.distributed is already initialised. So each
replica is initialised here, under its own prefix in the job's store (engine/store), which asks for the job's secret:
any user of the machine can change what is in a store of torch's, and with that where ranks connect to. RANK and
WORLD_SIZE then give the place in the replica. LOCAL_RANK stays: it selects the GPU.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.loop.lockstep import DivergedError, Lockstep
from vllm_hpc.engine.startup import gloo_peers, network
from vllm_hpc.engine.store.client import ForeignStoreError, JobStore
from vllm_hpc.engine.store.messages import Address
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.engine.store.torch_store import TorchStore
from vllm_hpc.spec.layout import Layout, Place

# Ranks of one job start at nearly the same time, once the job has left the queue. A late rank will not come.
_JOIN_TIMEOUT = timedelta(minutes=10)
# Seconds for a further connection to a store that has answered before.
_CONNECT_S = 30.0
_ADDRESS, _DONE, _ALL_DONE, _LEFT, _ALL_LEFT = "vllm-hpc/store", "done", "all-done", "left", "all-left"


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
        digests = [one.decode() for one in self.lockstep().gather(digest.encode())]
        if len(set(digests)) > 1:
            raise DivergedError(f"the ranks of replica {self.place.replica} diverged: digests {digests}")


class World(NamedTuple):
    """What the ranks of one torchrun world share: the job's store, and the same one for torch's process groups."""

    store: JobStore
    torch_store: Store
    rank: int
    size: int

    def leave(self) -> None:
        """Wait until every rank is done; the host of the stores, rank 0, leaves last."""
        if self.store.add(_DONE, 1) == self.size:
            self.store.set(_ALL_DONE, "")
        self.store.wait([_ALL_DONE])
        if self.store.add(_LEFT, 1) == self.size:
            self.store.set(_ALL_LEFT, "")
        if self.rank == 0:
            self.store.wait([_ALL_LEFT])


def meet(secret: bytes, rank: int, world_size: int) -> World:
    """Meet the other ranks of this world in the job's store.

    Raises RuntimeError with the ranks that did not connect in time.
    """
    connect = partial(JobStore, _store_address(secret, rank), secret)
    store = connect(_JOIN_TIMEOUT.total_seconds())
    store.set(f"here/{rank}", node_name())
    nodes = store.wait([f"here/{other}" for other in range(world_size)], _JOIN_TIMEOUT.total_seconds())
    if missing := [other for other, node in enumerate(nodes) if node is None]:
        raise RuntimeError(f"ranks {missing} did not connect to rank 0 within {_JOIN_TIMEOUT}")
    return World(store, TorchStore(partial(connect, _CONNECT_S), _JOIN_TIMEOUT), rank, world_size)


def _store_address(secret: bytes, rank: int) -> Address:
    """Where the job's store is: at MASTER_ADDR, where the head's agent runs it (torchrun.py), or rank 0 does."""
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    head = Address(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))
    if agent == "True":
        return _address_from_torch(secret, rank, head)
    if rank == 0 or os.environ.get("GROUP_RANK") == "0":  # on the head, the name may stand for the loopback device
        head = Address(network.address_of_head(head.host), head.port)
    return StoreServer(secret, *head).address if rank == 0 and agent is None else head


def _address_from_torch(secret: bytes, rank: int, head: Address) -> Address:
    """Where rank 0 runs the job's store, where torchrun's agent runs torch's at MASTER_ADDR.

    It does so in scripts of 0.1, and in launch lines of a site's own. Anybody can change what is there; but who is not
    the job's store cannot prove that it is.
    """
    torchs = TCPStore(*head, is_master=False, wait_for_workers=False, timeout=_JOIN_TIMEOUT)
    if rank != 0:
        return _read_address(torchs.get(_ADDRESS))
    address = StoreServer(secret, network.address_of_head(head.host)).address
    torchs.set(_ADDRESS, f"{address.host} {address.port}")
    return address


def _read_address(said: bytes) -> Address:
    """Where the job's store is, as torch's says it. Raises ForeignStoreError if rank 0 cannot have written that."""
    try:
        host, port = said.decode().split()
        return Address(host, int(port))
    except ValueError:
        raise ForeignStoreError(
            f"another process wrote {_ADDRESS!r} in torch's store, which anybody can: {said[:80]!r}; run the job again"
        ) from None


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
    return Replica(place, device, layout.replica_size, cpu_group)
