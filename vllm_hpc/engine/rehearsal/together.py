"""What the ranks of a replica with several lanes do together in each step of a rehearsal, as experts are in vLLM."""

from __future__ import annotations

import torch
import torch.distributed as dist

from vllm_hpc.engine.loop.lockstep import DivergedError


class Together:
    """Counts this rank's steps, and compares the count with that of all others: no rank may take one alone."""

    def __init__(self) -> None:
        self._steps = 0

    def step(self) -> None:
        """Take a step with the others, which wait for it. Raises DivergedError."""
        self._steps += 1
        ends = torch.tensor([self._steps, -self._steps])
        dist.all_reduce(ends, op=dist.ReduceOp.MAX)
        most, least = int(ends[0]), -int(ends[1])
        if most != least:
            raise DivergedError(f"the ranks of a replica took {least} to {most} steps, this one {self._steps}")
