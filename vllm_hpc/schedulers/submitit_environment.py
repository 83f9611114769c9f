"""submitit plugin, the side inside the job: a rank's number and node, whichever launcher started it.

submitit reads ranks from the scheduler's variables. Here several ranks share one scheduler task, in which torchrun
started them, so they are read from torchrun's. submitit finds this through its entry point ``job_environment``.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import ClassVar

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, JobPaths

# Imported by name and only there: whoever uses submitit for anything loads this file.
_RANK_OF_0_1 = "vllm_hpc.schedulers.in_script.rank_of_0_1"


class VllmHpcJobEnvironment(JobEnvironment):
    """The environment of a vllm-hpc rank. SUBMITIT_EXECUTOR must be set to its name, ``vllmhpc``.

    ``private``: this process's own folder, in which it has written what submitit loads. That is code, so nothing is
    loaded from anywhere else, such as a job's folder, where others may write.
    """

    private: ClassVar[str | None] = None
    _env: ClassVar[dict[str, str]] = {
        "job_id": "VLLM_HPC_JOB_ID",
        "num_tasks": "WORLD_SIZE",
        "num_nodes": "GROUP_WORLD_SIZE",
        "node": "GROUP_RANK",
        "global_rank": "RANK",
        "local_rank": "LOCAL_RANK",
    }

    @property
    def global_rank(self) -> int:
        """The rank in the torchrun world; the worker rewrites RANK for its replica and keeps this one."""
        return int(os.environ.get("VLLM_HPC_RANK") or os.environ.get("RANK") or 0)

    @property
    def paths(self) -> JobPaths:
        """submitit's files of this rank, in ``private``; of a job of 0.1, they are made now."""
        if self.private is None:
            import_module(_RANK_OF_0_1).keep_task(os.environ["SUBMITIT_FOLDER"])
        return JobPaths(str(self.private), job_id=self.job_id.replace("/", "-"), task_id=self.global_rank)

    def _handle_signals(self, paths: JobPaths, submission: DelayedSubmission) -> None:
        """Leave signals to the worker: submitit ignores TERM, so every failure would cost torchrun's 30 s of grace."""

    def _requeue(self, countdown: int) -> None:
        """Do nothing: the batch script requeues."""
