"""One rank as a script of vllm-hpc 0.1 starts it: as submitit itself, on the job's ranks/.

There 0.1 kept what submitit loads, a pickle, which is code: whoever can write there could put another in its place. So
it is written anew, in a folder of this rank alone, and nothing that lies in ranks/ is loaded.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

from submitit.core.utils import DelayedSubmission

from vllm_hpc.jobfolder.own_folder import EarlierJobFolder
from vllm_hpc.schedulers.submitit_environment import VllmHpcJobEnvironment
from vllm_hpc.schedulers.submitit_executor import RankTask


class EarlierRankTask(RankTask, frozen=True):
    """What submitit runs on every rank of a job that 0.1 submitted."""

    def __call__(self) -> dict[str, Any]:
        """Run one rank and return its record."""
        outcome: dict[str, Any] = import_module("vllm_hpc.engine.rank").run(self.folder, EarlierJobFolder)
        return outcome


def keep_task(ranks: str) -> None:
    """Write what submitit is to load for the job of that ranks/ into a folder that goes with this process."""
    private = tempfile.mkdtemp(prefix="vllm-hpc-rank-")
    atexit.register(shutil.rmtree, private, ignore_errors=True)
    VllmHpcJobEnvironment.private = private
    folder = EarlierJobFolder(Path(ranks).absolute().parent)
    if os.environ.get("RANK", "0") == "0":
        folder.note_open()
    task = EarlierRankTask(str(folder.path))
    DelayedSubmission(task).dump(VllmHpcJobEnvironment().paths.submitted_pickle)
