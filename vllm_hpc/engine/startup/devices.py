"""Which GPUs a rank sees: those of its replica on this node, numbered from 0, as if the replica were alone.

vLLM keys its compile cache by the rank in the replica, and compiled kernels are tied to their device. With all GPUs
visible, replica 1's rank 0 on cuda:1 would load what replica 0's compiled for cuda:0, and die of an 'invalid argument'
(seen on two H100, vLLM 0.26).
"""

from __future__ import annotations

import os
from pathlib import Path

from vllm_hpc.spec.layout import Layout

_CUDA, _HIP, _ROCR = "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
_ZE = "ZE_AFFINITY_MASK"
_AMD_DRIVER, _NVIDIA_DRIVER = Path("/dev/kfd"), Path("/dev/nvidiactl")
_INTEL_DRIVERS = (Path("/sys/module/xe"), Path("/sys/module/i915"))


def show_only_own(layout: Layout, rank: int, local_rank: int) -> None:
    """Set the variables that say which GPUs this process sees, and LOCAL_RANK. Call it before torch is imported.

    ``rank`` is in the torchrun world, ``local_rank`` on this node. If each task has one GPU (--gpus-per-task=1), its
    rank uses that. Otherwise the GPUs are divided among the replicas; a single replica keeps what it has. On Intel's a
    GPU is what ZE_AFFINITY_MASK lists: a tile, as Aurora's ZE_FLAT_DEVICE_HIERARCHY=FLAT counts them.
    """
    visible = _visible() or [str(number) for number in range(layout.procs_per_node)]
    if len(visible) == 1 < layout.procs_per_node:
        _show(visible, 0)
    elif layout.replica_size < layout.world_size and len(visible) >= layout.procs_per_node:
        first, count = own_slots(layout, rank, local_rank)
        _show(visible[first : first + count], local_rank - first)
    elif _vllm_would_refuse():
        _show(visible, local_rank)


def has_gpus() -> bool:
    """Whether this node has a driver of GPUs that vLLM computes on."""
    return _AMD_DRIVER.exists() or _NVIDIA_DRIVER.exists() or _is_intel()


def own_slots(layout: Layout, rank: int, local_rank: int) -> tuple[int, int]:
    """The first slot of this node that this rank's replica has, and how many it has here."""
    node_begin = rank - local_rank
    replica_begin = rank - rank % layout.replica_size
    begin = max(node_begin, replica_begin)
    end = min(node_begin + layout.procs_per_node, replica_begin + layout.replica_size)
    return begin - node_begin, end - begin


def _visible() -> list[str]:
    """The GPUs that this process may use; empty if no variable lists them."""
    if not _AMD_DRIVER.exists():
        return _list(_ZE if _is_intel() else _CUDA)
    return _list(_ROCR) if _rocr_counts() else _list(_HIP) or _list(_CUDA)


def _is_intel() -> bool:
    """Whether the node's GPUs are Intel's. Beside others, Intel's driver is that of a small one for the screen."""
    others = _NVIDIA_DRIVER.exists() or _AMD_DRIVER.exists()
    return not others and any(driver.exists() for driver in _INTEL_DRIVERS)


def _vllm_would_refuse() -> bool:
    """Whether only ROCR_VISIBLE_DEVICES lists GPUs, as Slurm does on LUMI: vLLM then asks for HIP's list, and stops."""
    return _AMD_DRIVER.exists() and bool(_list(_ROCR)) and not _list(_HIP)


def _rocr_counts() -> bool:
    """Whether ROCR_VISIBLE_DEVICES, which Slurm sets on AMD, is the list that counts.

    It hides GPUs from HIP, which numbers the rest from 0. If HIP's list is shorter, it is a part of ROCR's. If it
    is as long or longer, it was copied from ROCR's or is the same for all tasks of the node, and HIP would not find
    most of those GPUs.
    """
    hip, rocr = _list(_HIP) or _list(_CUDA), _list(_ROCR)
    return bool(rocr) and (not hip or len(hip) >= len(rocr))


def _show(devices: list[str], local_rank: int) -> None:
    """Set one list: HIP's replaces ROCR's, and CUDA's gets the same, because vLLM refuses two that differ."""
    os.environ["LOCAL_RANK"] = str(local_rank)
    if _is_intel():
        os.environ[_ZE] = ",".join(devices)
        return
    if _AMD_DRIVER.exists():
        if _rocr_counts():
            del os.environ[_ROCR]
        os.environ[_HIP] = ",".join(devices)
    os.environ[_CUDA] = ",".join(devices)


def _list(variable: str) -> list[str]:
    return [device for device in os.environ.get(variable, "").split(",") if device]
