"""A plug-in of vLLM: what its CPU back-end lacks for attention in data parallel, over gloo, for the tests.

Lanes exchange rows of different numbers before and after the experts: ``all_gatherv`` and ``reduce_scatterv``, which
vLLM has for GPUs only (distributed/device_communicators/cuda_communicator.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def register() -> None:
    """vLLM calls this in every process, before the engine starts."""
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator.all_gatherv = all_gatherv
    CpuCommunicator.reduce_scatterv = reduce_scatterv


def all_gatherv(self: Any, input_: torch.Tensor | list[torch.Tensor], dim: int = 0, sizes: Any = None) -> Any:
    """The rows of all ranks, one rank's after the other's; ``sizes``: how many each has."""
    if isinstance(input_, list):
        return [all_gatherv(self, one, dim, sizes) for one in input_]
    assert dim == 0
    sizes = list(sizes) if sizes is not None else [input_.shape[0]] * self.world_size
    padded = input_.new_zeros((max(sizes), *input_.shape[1:]))
    padded[: input_.shape[0]] = input_
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded, group=self.device_group)
    return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])


def reduce_scatterv(self: Any, input_: torch.Tensor, dim: int = -1, sizes: Any = None) -> torch.Tensor:
    """This rank's rows of the sum over all ranks."""
    assert dim == 0
    summed = input_.contiguous().clone()
    dist.all_reduce(summed, group=self.device_group)
    count = self.world_size
    sizes = list(sizes) if sizes is not None else [summed.shape[0] // count] * count
    first = sum(sizes[: self.rank_in_group])
    return summed[first : first + sizes[self.rank_in_group]].contiguous()
