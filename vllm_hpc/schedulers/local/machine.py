"""What this machine has for jobs: the GPUs that a job may use, or memory and cores."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import psutil

from vllm_hpc.schedulers.client import ClientError, call_client
from vllm_hpc.spec.gpus import GIB

_SMI = ("nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader")
_SMI_TIMEOUT_S = 10.0
# Share of the memory for jobs, as the planner has it; the rest is for the system and the page cache.
_SHARE = 0.9
_AMD_DRIVER = Path("/dev/kfd")
_LIMIT = Path("/sys/fs/cgroup/memory.max")


class Gpu(NamedTuple):
    """A GPU: what CUDA_VISIBLE_DEVICES calls it, and its UUID, by which two jobs see that they mean the same one."""

    name: str
    uuid: str


class Machine(NamedTuple):
    """What a job may use. Without GPUs, jobs share memory (GiB) and cores."""

    gpus: tuple[Gpu, ...]
    cores: int
    memory_gib: float


def this_machine(visible: str | None, has_gpus: bool = True) -> Machine:
    """What there is; ``visible`` is CUDA_VISIBLE_DEVICES, if it is set. Not ``has_gpus``: the job needs none."""
    gpus = _gpus(visible) if has_gpus else ()
    # AMD's GPUs are not told apart: no cores to share means one job after another.
    cores = 0 if has_gpus and not gpus and _AMD_DRIVER.exists() else len(os.sched_getaffinity(0))
    return Machine(gpus, cores, _memory() * _SHARE / GIB)


def free_gib() -> float:
    """The memory that nobody uses now."""
    return psutil.virtual_memory().available / GIB


def _gpus(visible: str | None) -> tuple[Gpu, ...]:
    """The NVIDIA GPUs of this machine that a job may use, in CUDA's order; none without a driver that answers."""
    try:
        lines = call_client(list(_SMI), _SMI_TIMEOUT_S).splitlines()
    except (ClientError, OSError):
        lines = []
    there = [Gpu(found[1], found[2]) for line in lines if (found := re.fullmatch(r"(\d+), *(\S+)", line.strip()))]
    if visible is None or not there:
        return tuple(there)
    return tuple(_named(name.strip(), there) for name in visible.split(",") if name.strip())


def _named(name: str, there: list[Gpu]) -> Gpu:
    """The GPU of that number, or of a UUID that may be cut short; what is neither (a MIG slice) stands for itself."""
    is_it = [one for one in there if one.name == name or (name.startswith("GPU-") and one.uuid.startswith(name))]
    return Gpu(name, is_it[0].uuid if is_it else name)


def _memory() -> int:
    """The memory of this machine, or of the container that this process is in."""
    total = psutil.virtual_memory().total
    try:
        limit = _LIMIT.read_text().strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdecimal() else total
