"""A replica: the ranks that hold one copy of the model, a part of the torchrun world.

vLLM uses the whole world for one engine, but skips its own set-up if torch.distributed is already initialised. So each
replica is initialised here, under its own prefix in the store that torchrun's agent runs. RANK and WORLD_SIZE then give
the place in the replica. LOCAL_RANK stays: it selects the GPU.

Any user of the machine can change what is in torch's store. So only torch uses it, and what is ours is in a store that
asks for the job's secret (engine/store), whose address is all that ranks take from torch's.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.loop.lockstep import DivergedError, Lockstep
from vllm_hpc.engine.store.client import ForeignStoreError, JobStore
from vllm_hpc.engine.store.messages import Address
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.spec.layout import Layout, Place

# Ranks of one job start at nearly the same time, once the job has left the queue. A late rank will not come.
_JOIN_TIMEOUT = timedelta(minutes=10)
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
    """What the ranks of one torchrun world share: the job's store, and torch's, over which its process groups meet."""

    store: JobStore
    rendezvous: TCPStore
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
    """Meet the other ranks of this world in its stores: the job's, on rank 0, and torch's.

    Raises RuntimeError with the ranks that did not connect in time.
    """
    rendezvous = _rendezvous(rank)
    if rank == 0:
        address = StoreServer(secret, _own_address()).address
        rendezvous.set(_ADDRESS, f"{address.host} {address.port}")
    else:
        address = _read_address(rendezvous.get(_ADDRESS))
    store = JobStore(address, secret, _JOIN_TIMEOUT.total_seconds())
    store.set(f"here/{rank}", node_name())
    nodes = store.wait([f"here/{other}" for other in range(world_size)], _JOIN_TIMEOUT.total_seconds())
    if missing := [other for other, node in enumerate(nodes) if node is None]:
        raise RuntimeError(f"ranks {missing} did not connect to rank 0 within {_JOIN_TIMEOUT}")
    return World(store, rendezvous, rank, world_size)


def _read_address(said: bytes) -> Address:
    """Where the job's store is, as torch's says it. Raises ForeignStoreError if rank 0 cannot have written that."""
    try:
        host, port = said.decode().split()
        return Address(host, int(port))
    except ValueError:
        raise ForeignStoreError(
            f"another process wrote {_ADDRESS!r} in torch's store, which anybody can: {said[:80]!r}; run the job again"
        ) from None


def _rendezvous(rank: int) -> TCPStore:
    """Torch's store, which torchrun's agent on the head runs, or rank 0 without torchrun."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    is_host = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    listening = None  # torch's own choice is to listen on all addresses
    if is_host and _is_loopback(host):
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family).detach()
    return TCPStore(
        host, port, is_master=is_host, wait_for_workers=False, timeout=_JOIN_TIMEOUT, master_listen_fd=listening
    )


def _own_address() -> str:
    """Where the job's store listens: at the address by which the other ranks reach this one."""
    return "127.0.0.1" if _is_loopback(os.environ["MASTER_ADDR"]) else os.environ["VLLM_HOST_IP"]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def join(
    layout: Layout, place: Place, rendezvous: TCPStore, backend: str, device: str, cpu_group: Callable[[], Any]
) -> Replica:
    """Initialise torch.distributed over this rank's replica, with that back-end."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(place.rank), str(layout.replica_size)
    dist.init_process_group(
        backend=backend,
        store=PrefixStore(f"vllm-hpc/replica/{place.replica}/", rendezvous),
        rank=place.rank,
        world_size=layout.replica_size,
    )
    return Replica(place, device, layout.replica_size, cpu_group)
