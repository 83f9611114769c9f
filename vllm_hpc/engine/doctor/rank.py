"""What the ranks of doctor's job find: the packages and GPUs that they see, and the speed of an all-reduce over all."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from vllm_hpc.engine.doctor import look
from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.standing import Standing
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.node_report import MIB, RankFacts, Sum
from vllm_hpc.jobfolder.record_files import write_json

if TYPE_CHECKING:
    from vllm_hpc.engine.startup.replicas import World

_SIZES = tuple(size * MIB for size in (1, 4, 16, 64, 256))
_TURNS = 3
# Seconds: the longest that one size may take, judged by the size before, and a collective that does not end.
_MOST_S, _TIMEOUT = 1.0, timedelta(seconds=120)


def examine(world: World, standing: Standing) -> None:
    """Find out, and write it down on the first rank of each node. Raises what the all-reduce raises."""
    job, facts = JobFolder(os.environ["VLLM_HPC_FOLDER"]), _look(standing)
    try:
        backend, device = _choose_backend(world, standing)
        facts = msgspec.structs.replace(facts, backend=backend)
        facts = msgspec.structs.replace(facts, sums=_measure(world, backend, device))
    except Exception as error:
        facts = msgspec.structs.replace(facts, error=f"{type(error).__name__}: {error}"[:2000])
        _write(job, facts)
        raise
    if standing.local_rank == 0:
        _write(job, facts)


def _write(job: JobFolder, facts: RankFacts) -> None:
    with suppress(OSError):  # a full disk is the rank's to report
        write_json(job.doctor_rank(facts.rank), facts)


def _look(standing: Standing) -> RankFacts:
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    kind = torch.cuda.get_device_properties(0) if gpus else None
    cuda = torch.version.cuda or torch.version.hip
    return RankFacts(
        rank=standing.global_rank,
        host=node_name(),
        ranks=standing.world_size,
        versions={**look.versions(), "torch": str(torch.__version__), **({"cuda": cuda} if cuda else {})},
        gpus=gpus or _intel_gpus(),
        gpu_name=kind.name if kind else "",
        gpu_gib=round(kind.total_memory / (1 << 30), 2) if kind else None,
    )


def _intel_gpus() -> int:
    return torch.xpu.device_count() if torch.xpu.is_available() else 0


def _choose_backend(world: World, standing: Standing) -> tuple[str, str]:
    """NCCL or RCCL where each rank has a GPU of its own, XCCL where it is Intel's; else gloo. All choose alike."""
    if torch.cuda.is_available() and torch.cuda.device_count():
        number = standing.local_rank % torch.cuda.device_count()
        torch.cuda.set_device(number)
        own, backend, device = f"{node_name()} {torch.cuda.get_device_properties(number).uuid}", "nccl", "cuda"
    elif _intel_gpus() and dist.is_xccl_available():
        number = standing.local_rank % _intel_gpus()
        torch.xpu.set_device(number)
        own, backend, device = f"{node_name()} {number}", "xccl", "xpu"
    else:
        own, backend, device = f"rank {world.rank}", "gloo", "cpu"
    world.store.set(f"doctor/gpu/{world.rank}", f"{backend} {own}")
    said = world.store.wait([f"doctor/gpu/{rank}" for rank in range(world.size)])
    kinds = {str(one).split()[0] for one in said}
    return (backend, device) if len(kinds) == 1 and len(set(said)) == world.size else ("gloo", "cpu")


def _measure(world: World, backend: str, device: str) -> tuple[Sum, ...]:
    """The time of an all-reduce, by its size; none for a single rank."""
    if world.size == 1:
        return ()
    store = PrefixStore("vllm-hpc/doctor/", world.torch_store)
    dist.init_process_group(backend, store=store, rank=world.rank, world_size=world.size, timeout=_TIMEOUT)
    try:
        found: list[Sum] = []
        for size in _SIZES:
            if found and found[-1].seconds * size / found[-1].size * (_TURNS + 1) > _MOST_S:
                break
            found.append(Sum(size, round(_time(world, size, device), 6)))
        return tuple(found)
    finally:
        dist.destroy_process_group()


def _time(world: World, size: int, device: str) -> float:
    """Seconds of one all-reduce on the slowest rank, the fastest of some. Raises ArithmeticError for a wrong sum."""
    best = float("inf")
    for turn in range(_TURNS + 1):
        values = torch.full((size // 4,), float(world.rank + 1), device=device)
        _finish(device)
        began = time.perf_counter()
        dist.all_reduce(values)
        _finish(device)
        spent = time.perf_counter() - began
        expected = world.size * (world.size + 1) / 2
        if values[0].item() != expected or values[-1].item() != expected:
            raise ArithmeticError(f"the all-reduce over {world.size} ranks gave {values[0].item()}, not {expected}")
        if turn:  # the first one connects
            best = min(best, spent)
    slowest = torch.tensor([best], dtype=torch.float64 if device == "cpu" else torch.float32, device=device)
    dist.all_reduce(slowest, op=dist.ReduceOp.MAX)
    return float(slowest.item())


def _finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
    elif device == "xpu":
        torch.xpu.synchronize()
