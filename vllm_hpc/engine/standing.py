"""A rank's place in its job, read from the variables that its launcher has set."""

from __future__ import annotations

import os

import msgspec


class Standing(msgspec.Struct, frozen=True):
    """This process's place. ``rank`` is within its torchrun world, ``global_rank`` counts over an array's tasks."""

    rank: int
    local_rank: int
    world_size: int
    task: int
    attempt: int
    job_id: str

    @property
    def global_rank(self) -> int:
        """The rank in the whole job."""
        return self.task * self.world_size + self.rank

    @property
    def run_name(self) -> str:
        """A name that distinguishes this attempt's processes from all others on a node."""
        return f"{self.job_id}-{self.attempt}"

    @classmethod
    def from_environment(cls) -> Standing:
        """Read what torchrun, or srun through the script, has set. Keeps a copy of RANK: a replica rewrites it."""
        os.environ["VLLM_HPC_RANK"] = os.environ["RANK"]
        return cls(
            rank=int(os.environ["RANK"]),
            local_rank=int(os.environ["LOCAL_RANK"]),
            world_size=int(os.environ["WORLD_SIZE"]),
            task=int(os.environ["VLLM_HPC_TASK"]),
            attempt=int(os.environ["VLLM_HPC_ATTEMPT"]),
            job_id=os.environ["VLLM_HPC_JOB_ID"],
        )
