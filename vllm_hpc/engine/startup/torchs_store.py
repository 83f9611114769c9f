"""A store of torch's own for process groups, where a library takes no other: AITER, on AMD's GPUs.

AITER's all-reduce exchanges its buffers' handles over the default store, and asserts that this is a TCPStore
(ROCm/aiter, IPCBufferPool). It listens at the address that the other ranks use, and at no other; but it asks nobody
who they are (docs/attempts.md).
"""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING

from torch._C._distributed_c10d import TCPStore

from vllm_hpc.engine.startup import network

if TYPE_CHECKING:
    from vllm_hpc.engine.startup.replicas import World

_ADDRESS = "torchs-store"
_TIMEOUT = timedelta(minutes=10)


def is_needed() -> bool:
    """Whether vLLM may use AITER's all-reduce."""
    from vllm import envs
    from vllm.platforms import current_platform

    return bool(current_platform.is_rocm() and getattr(envs, "VLLM_ROCM_USE_AITER", False))


def open_store(world: World) -> TCPStore:
    """A store that rank 0 of the world runs; the others learn in the job's store where it is. Raises OSError."""
    if world.rank != 0:
        host, port = world.store.get(_ADDRESS).split()
        return TCPStore(host, int(port), is_master=False, wait_for_workers=False, timeout=_TIMEOUT)
    host = network.address_of_head(os.environ["MASTER_ADDR"])
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, 0), family=family)  # torch's own choice is all addresses
    number = listening.getsockname()[1]
    store = TCPStore(
        host, number, is_master=True, wait_for_workers=False, timeout=_TIMEOUT, master_listen_fd=listening.detach()
    )
    world.store.set(_ADDRESS, f"{host} {number}")
    print(
        f"vllm-hpc: AITER takes no store but torch's, which asks nobody for the job's secret: {host} {number}",
        flush=True,
    )
    return store
