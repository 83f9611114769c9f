"""submitit plugin, the side inside the job: a rank's number and node, whichever launcher started it.

submitit reads ranks from the scheduler's variables. Here several ranks share one scheduler task, in which torchrun
started them, so they are read from torchrun's. submitit finds this through its entry point ``job_environment``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import ClassVar

from submitit.core.job_environment import JobEnvironment
from submitit.core.utils import DelayedSubmission, JobPaths

from vllm_hpc.spec.ownership import open_mine

# What all ranks of vllm-hpc 0.1 run, in ranks/, where submitit itself looks for it.
TASK_PICKLE = "task.pkl"


class VllmHpcJobEnvironment(JobEnvironment):
    """The environment of a vllm-hpc rank. SUBMITIT_EXECUTOR must be set to its name, ``vllmhpc``."""

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
        """submitit's files of this rank. Of a job of 0.1, the pickle gets a name with the id of this job or array task.

        Raises NotMineError if somebody else can write it, for it is code.
        """
        paths = super().paths
        if not (paths.folder / TASK_PICKLE).exists():
            return paths
        # The first rank makes a hard link, in one step; a copy could be read while it is being written.
        with suppress(FileExistsError):
            os.link(paths.folder / TASK_PICKLE, paths.submitted_pickle)
        open_mine(paths.submitted_pickle).close()
        # Left behind by a rank that was killed while it wrote its result. submitit refuses to overwrite it: every later
        # attempt of this job would do its work and then fail.
        result = paths.result_pickle
        result.with_suffix(f"{result.suffix}.save_tmp").unlink(missing_ok=True)
        return paths

    def _handle_signals(self, paths: JobPaths, submission: DelayedSubmission) -> None:
        """Leave signals to the worker: submitit ignores TERM, so every failure would cost torchrun's 30 s of grace."""

    def _requeue(self, countdown: int) -> None:
        """Do nothing: the batch script requeues."""
