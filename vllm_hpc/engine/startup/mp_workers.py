"""`--launcher native`: vLLM starts its own workers, all workers of a node at once, and overlaps the stages of PP.

The world is the planned one, with a rank for each GPU, so ranks are started and watched as always. The first rank of a
replica runs the loop over an engine whose workers vLLM starts beside it. Its first rank on each other node starts that
node's workers (like ``vllm serve --headless``, vllm/entrypoints/cli/serve.py, run_headless). The other ranks only wait.

Needs MultiprocExecutor and EngineArgs.create_engine_config(headless=True) of vLLM: see vllm_patches/table.py, REQUIRED.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from vllm_hpc.engine.startup.devices import own_slots
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Layout, Place

if TYPE_CHECKING:
    from vllm_hpc.engine.startup.replicas import Replica
    from vllm_hpc.engine.store.client import JobStore

_POLL_S = 0.5


class Seat(msgspec.Struct, frozen=True):
    """What a rank does for its replica: ``node`` counts the replica's nodes, of which it has ``nodes``."""

    place: Place
    node: int
    nodes: int
    starts_workers: bool

    @classmethod
    def of(cls, layout: Layout, place: Place, rank: int, local_rank: int) -> Seat:
        """``rank`` is in the torchrun world, ``local_rank`` on this node."""
        first, count = own_slots(layout, rank, local_rank)
        return cls(place, place.rank // count, layout.replica_size // count, local_rank == first)


def prepare_environment() -> None:
    """Variables that vLLM reads when it is imported, for it and the processes that it starts."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the scheduler stays in this process, beside the loop
    os.environ["VLLM_WORKER_MULTIPROCESSING_METHOD"] = "spawn"  # this process has threads
    # On the CPU, vLLM would require a NUMA node for each worker.
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def workers(seat: Seat, store: JobStore) -> dict[str, Any]:
    """Engine arguments that say where the replica's workers are, and where they meet. Waits for its first rank."""
    os.environ.pop("TORCHELASTIC_USE_AGENT_STORE", None)  # they meet at a store of their own
    if seat.nodes == 1:
        return {}
    key = f"native/{seat.place.replica}"
    if seat.node == 0:
        with socket.create_server((os.environ["VLLM_HOST_IP"], 0)) as free:
            store.set(key, f"{os.environ['VLLM_HOST_IP']} {free.getsockname()[1]}")
    address, port = store.get(key).split()
    return {"nnodes": seat.nodes, "node_rank": seat.node, "master_addr": address, "master_port": int(port)}


def lead(seat: Seat) -> Replica:
    """The replica of a rank that runs its loop alone."""
    from vllm.platforms import current_platform

    from vllm_hpc.engine.startup.replicas import Replica

    device = "cpu" if current_platform.is_cpu() else f"{current_platform.device_type}:0"
    return Replica(seat.place, device, 1, lambda: None)


def unlink_shared_memory() -> None:
    """Unlink the CPU back-end's shared memory, once its workers have mapped it, so that no death leaves it behind."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error, OSError):
            for mapped in child.memory_maps():
                if mapped.path.startswith("/dev/shm/") and "cpushm" in mapped.path:
                    Path(mapped.path).unlink(missing_ok=True)


def serve(record: JobRecord, seat: Seat, store: JobStore) -> None:
    """Start this node's workers, and keep them until the replica has ended. Raises RuntimeError if one dies."""
    from vllm.usage.usage_lib import UsageContext
    from vllm.v1.executor.multiproc_executor import MultiprocExecutor

    from vllm_hpc.engine.startup.make_engine import engine_arguments

    arguments = engine_arguments(record, **workers(seat, store))
    executor = MultiprocExecutor(arguments.create_engine_config(UsageContext.LLM_CLASS, headless=True))
    unlink_shared_memory()
    while store.read([_over(seat)]) == [None]:
        if executor.is_failed:
            raise RuntimeError("a worker that vLLM started died: this rank's log has its last output")
        time.sleep(_POLL_S)
    executor.shutdown()


def release(seat: Seat, store: JobStore) -> None:
    """Say, as the first rank, that the loop is over: other nodes' workers may end."""
    store.set(_over(seat), "")


def _over(seat: Seat) -> str:
    return f"native/{seat.place.replica}/over"
