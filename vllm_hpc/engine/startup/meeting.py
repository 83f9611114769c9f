"""How the ranks of a torchrun world meet and leave: in the job's store. It runs without torch.

A script of the user's comes after it, and may set variables that torch reads when it is imported.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import NamedTuple

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.startup import network
from vllm_hpc.engine.store.client import ForeignStoreError, JobStore, StoreLostError
from vllm_hpc.engine.store.messages import Address
from vllm_hpc.engine.store.server import StoreServer

# Ranks of one job start at nearly the same time, once the job has left the queue. A late rank will not come.
JOIN_TIMEOUT = timedelta(minutes=10)
# Seconds for a further connection to a store that has answered before.
_CONNECT_S = 30.0
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"
_ADDRESS, _DONE, _ALL_DONE, _LEFT, _ALL_LEFT = "vllm-hpc/store", "done", "all-done", "left", "all-left"
# Where the first rank puts what nobody can guess of the names of shared memory.
_NONCE = "shared-memory"


class Meeting(NamedTuple):
    """What the ranks of one torchrun world share: the job's store; ``connect`` makes further connections to it."""

    store: JobStore
    connect: Callable[[], JobStore]
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

    def end(self) -> None:
        """Leave without waiting for the other ranks, who may take much longer: only who has the store stays for them.

        As long as a rank's process is there, those who wait for it in a collective do not learn that it has ended.
        """
        if _AGENT in os.environ and os.environ[_AGENT] != "True":
            return  # the head's agent has it, and stays (torchrun.py)
        if self.rank == 0:
            self.store.wait([f"ended/{other}" for other in range(1, self.size)])
        else:
            with suppress(StoreLostError):  # rank 0 may leave before it has answered the last one
                self.store.set(f"ended/{self.rank}", "")


def meet(secret: bytes, rank: int, world_size: int) -> Meeting:
    """Meet the other ranks of this world in the job's store.

    Raises RuntimeError with the ranks that did not connect in time.
    """
    connect = partial(JobStore, _store_address(secret, rank), secret)
    store = connect(JOIN_TIMEOUT.total_seconds())
    store.set(f"here/{rank}", node_name())
    nodes = store.wait([f"here/{other}" for other in range(world_size)], JOIN_TIMEOUT.total_seconds())
    if missing := [other for other, node in enumerate(nodes) if node is None]:
        raise RuntimeError(f"ranks {missing} did not connect to rank 0 within {JOIN_TIMEOUT}")
    return Meeting(store, partial(connect, _CONNECT_S), rank, world_size)


def _store_address(secret: bytes, rank: int) -> Address:
    """Where the job's store is: at MASTER_ADDR, where the head's agent runs it (torchrun.py), or rank 0 does."""
    agent = os.environ.get(_AGENT)
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
    from torch._C._distributed_c10d import TCPStore

    torchs = TCPStore(*head, is_master=False, wait_for_workers=False, timeout=JOIN_TIMEOUT)
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


def share_nonce(store: JobStore, rank: int) -> str:
    """Letters that another user of the machine cannot know, to make shared memory of that name before the ranks do."""
    if rank == 0:
        store.set(_NONCE, secrets.token_hex(8))
    return store.get(_NONCE)
