"""Finds what the ranks run on: the GPUs of --gpu, the profile or this node, or the CPU and its memory."""

from __future__ import annotations

import os
import re
import shutil

from vllm_hpc.schedulers.client import ClientError, call_client
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.gpus import GIB, Gpu, explain_gpu, find_gpu, recognise
from vllm_hpc.spec.resolved_job import FilledRequest, ResolvedJob

SMI = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
SMI_TIMEOUT_S = 10.0
# Share of a node's memory for ranks; the rest is for the system and the page cache.
CPU_SHARE = 0.9


def explain_device(job: ResolvedJob) -> str:
    """The plan's reason that says which device it assumes, and from which source."""
    if job.device is not None:
        return str(job.device)
    missing = "--mem" if job.site.gpu_flag == "none" else "--gpu, or in the profile"
    return f"memory is not checked: the GPU is unknown; give it with {missing}"


def find_device(filled: FilledRequest, runs_here: bool) -> Device | None:
    """What the ranks will run on, None if unknown. Raises RequestError for an unknown --gpu."""
    request, site = filled.request, filled.site
    if request.gpu is not None:
        return Device(find_gpu(request.gpu), "--gpu", note=explain_gpu(request.gpu))
    if runs_here:
        return _this_node()
    if site.gpu:
        return Device(find_gpu(site.gpu), "the profile's gpu", note=explain_gpu(site.gpu))
    if site.gpu_memory_gib:
        return Device(Gpu("GPU", site.gpu_memory_gib, 0.0, 0.0), "the profile's gpu_memory_gib")
    if site.gpu_flag == "none":
        memory = _bytes(request.mem)
        return Device(None, "--mem", memory) if memory else None
    return None


def gpus_here() -> int | None:
    """The GPUs of this node, None without a GPU."""
    return _this_node().per_node


def _this_node() -> Device:
    if shutil.which(SMI[0]):
        try:
            lines = call_client(list(SMI), SMI_TIMEOUT_S).splitlines()
        except ClientError:
            lines = []  # no GPU, or a driver that does not respond
        found = [match for line in lines if (match := re.fullmatch(r"(.+), *(\d+)", line.strip()))]
        if found:
            least = min(found, key=lambda match: int(match[2]))
            # CUDA's total is nvidia-smi's minus what the driver reserves: 79.18 of 79.65 GiB on an H100.
            return Device(recognise(least[1], int(least[2]) / 1024 - 0.47), "this node", per_node=len(found))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Device(None, "this node's memory", int(memory * CPU_SHARE))


def _bytes(size: str | None) -> int | None:
    """Bytes of a Slurm memory size such as 64G (a plain number is MiB); None for 0 (all of a node) or not given."""
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", (size or "").upper())
    if not match or not int(match[1]):
        return None
    return int(match[1]) * {"K": 1 << 10, "": 1 << 20, "M": 1 << 20, "G": GIB, "T": GIB << 10}[match[2]]
