"""A replica: the ranks that hold one copy of the model, a part of the torchrun world.

vLLM takes the whole world for one engine. It skips its own set-up where torch.distributed is initialised already,
so each replica is initialised here, over a corner of the store that torchrun's agent runs, and RANK and WORLD_SIZE
then name the place in the replica. LOCAL_RANK stays: it names the GPU.
"""

from __future__ import annotations

import os
import platform
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore

from vllm_hpc.engine.lockstep import Lockstep
from vllm_hpc.engine.report import node_name
from vllm_hpc.layout import Layout, Place

# Ranks of one job start within moments of each other; the queue is behind them. A missing one is missing for good.
_JOIN_TIMEOUT = timedelta(minutes=10)
_LEAVE_POLL_S = 0.5
_SHM = Path("/dev/shm")


class Replica:
    """This rank's replica, initialised. ``device`` is the torch device that the rank computes on.

    ``size`` is how many ranks run its loop, ``ident`` begins the names of the memory that they share on the CPU.
    """

    def __init__(self, place: Place, device: str, ident: str | None, size: int) -> None:
        self.place, self.device, self._ident, self._size = place, device, ident, size

    def after_engine_start(self) -> None:
        """Unlink the CPU back-end's shared memory once all ranks have mapped it: then no death can leave it behind."""
        if self._ident is None:
            return
        dist.barrier(group=_cpu_group())
        for segment in _SHM.glob(f"{self._ident}*"):
            segment.unlink(missing_ok=True)

    def lockstep(self) -> Lockstep:
        """How its ranks agree, over the replica's own CPU group."""
        group = _cpu_group() if self._size > 1 else None
        return Lockstep(self.place.rank, self.place.replica, group)

    def check_digests(self, digest: str) -> None:
        """Compare what all ranks of the replica generated. Raises RuntimeError where they differ."""
        if self._size == 1:
            return
        digests: list[Any] = [None] * self._size
        dist.all_gather_object(digests, digest, group=_cpu_group())
        if len(set(digests)) > 1:
            raise RuntimeError(f"the ranks of replica {self.place.replica} diverged: digests {digests}")


def meet(rank: int, world_size: int) -> TCPStore:
    """Join the store of this world: torchrun's agent on the head runs it, or rank 0 where there is no torchrun.

    Raises RuntimeError, which names the ranks that did not come in time.
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
        raise RuntimeError(f"ranks {missing} did not come to rank 0 within {_JOIN_TIMEOUT}") from None
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


def join(layout: Layout, place: Place, store: TCPStore, run: str) -> Replica:
    """Initialise torch.distributed over this rank's replica. ``run`` tells this attempt from all others."""
    from vllm.platforms import current_platform

    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(place.rank), str(layout.replica_size)
    local_rank = int(os.environ["LOCAL_RANK"])
    is_cpu = current_platform.is_cpu()
    if not is_cpu:
        torch.accelerator.set_device_index(local_rank)
    dist.init_process_group(
        backend=current_platform.dist_backend,
        store=PrefixStore(f"vllm-hpc/replica/{place.replica}/", store),
        rank=place.rank,
        world_size=layout.replica_size,
    )
    ident = f"vllm-hpc-{run}-{place.replica}-{platform.node()}"[:128]
    if is_cpu:
        _name_shared_memory(ident)
    device = "cpu" if is_cpu else f"{current_platform.device_type}:{local_rank}"
    return Replica(place, device, ident, layout.replica_size)


def describe_device() -> tuple[str, float | None]:
    """What this rank's GPU is called, and its memory in GiB; on the CPU, the processor, and None."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return platform.processor() or "cpu", None
    return current_platform.get_device_name(), round(current_platform.get_device_total_memory() / 2**30, 2)


def _name_shared_memory(ident: str) -> None:
    """Give the CPU back-end's shared memory a name of our own.

    vLLM derives it from the init method (vllm/v1/worker/cpu_worker.py, VLLM_DIST_IDENT), which under torchrun is the
    same for every job on the host: two jobs collide, and a killed one leaves its segment for the next to trip over.
    Nothing else reads the init method, for torch.distributed is initialised. Ranks on another host differ in it, by
    which vLLM knows not to share memory with them.
    """
    from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher

    def distributed_args(self: Any) -> tuple[str, int, int]:
        return f"file:///{ident}", int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])

    ExecutorWithExternalLauncher._distributed_args = distributed_args


def _cpu_group() -> Any:
    from vllm.distributed.parallel_state import get_world_group

    return get_world_group().cpu_group
