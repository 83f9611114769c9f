"""submitit plugin, the side inside the job: where a rank stands, whoever started it.

submitit reads ranks from the scheduler's variables; here several ranks share one scheduler task (torchrun started
them), so they come from torchrun's. Found by submitit through the entry point ``submitit: job_environment``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import ClassVar

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, JobPaths

# What all ranks run, in the folder that submitit is given. There before the job has an id, unlike submitit's own name.
TASK_PICKLE = "task.pkl"


class VllmHpcJobEnvironment(JobEnvironment):
    """The environment of a vllm-hpc rank; its name, which SUBMITIT_EXECUTOR must hold, is ``vllmhpc``."""

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
        """submitit's files of this rank; its pickle is given the name of this job's id, or of this array task's."""
        paths = super().paths
        # A hard link is made whole and once, by whichever rank comes first; copies would be read while written.
        with suppress(FileExistsError):
            os.link(paths.folder / TASK_PICKLE, paths.submitted_pickle)
        # Left behind by a rank that was killed as it wrote its result. submitit refuses to write over it, so that every
        # later attempt of this job would do its work and end as failed.
        result = paths.result_pickle
        result.with_suffix(f"{result.suffix}.save_tmp").unlink(missing_ok=True)
        return paths

    def _handle_signals(self, paths: JobPaths, submission: DelayedSubmission) -> None:
        """Leave signals to the worker: submitit would ignore TERM, and every failure cost torchrun's grace of 30 s."""

    def _requeue(self, countdown: int) -> None:
        """Nothing: requeueing is the batch script's work."""
