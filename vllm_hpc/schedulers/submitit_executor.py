"""submitit plugin, the login side: submits a rendered script to a scheduler and keeps one task per rank.

What the ranks run is written into ranks/task.json before the job is submitted. submitit's own pickles would be code in
a folder that others may write to: each rank makes them, in a folder of its own (in_script/rank.py).
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from submitit.core import core
from submitit.core.utils import DelayedSubmission

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.schedulers.scheduler import Scheduler
from vllm_hpc.spec.errors import RefusedError, RequestError, SubmitError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.read_file import read_regular

# What ranks and torchrun find by entry points of vllm-hpc's installation: (group, name).
_ENTRY_POINTS = (("submitit", "job_environment"), ("torchrun.handlers", "vllm-hpc"))


class RankTask(msgspec.Struct, frozen=True):
    """What submitit runs on every rank, and ranks/task.json. The worker is imported there by name, not here."""

    folder: str

    def __call__(self) -> dict[str, Any]:
        """Run one rank and return its record."""
        outcome: dict[str, Any] = import_module("vllm_hpc.engine.rank").run(self.folder)
        return outcome


class FolderWatcher(core.InfoWatcher):
    """submitit's view of states. Ours come from the job folder (vllm_hpc.jobs.job), so this queries nothing."""

    def get_state(self, job_id: str, mode: str = "standard") -> str:
        """UNKNOWN: submitit does not know, and this does not guess."""
        return "UNKNOWN"

    def _make_command(self) -> list[str] | None:
        return None

    def read_info(self, string: bytes | str) -> dict[str, dict[str, str]]:
        """Nothing: no client is called."""
        return {}


class SubmittedJob(core.Job[Any]):
    """submitit's handle of a job, with one task per rank. Users get a ``vllm_hpc.Job`` instead."""

    watcher = FolderWatcher()


class ScriptExecutor(core.PicklingExecutor):
    """Submit one rendered script, which must exist as ``script`` in the job folder. Raises SubmitError."""

    job_class = SubmittedJob

    def __init__(self, job: JobFolder, scheduler: Scheduler, layout: Layout) -> None:
        super().__init__(job.ranks)
        self._job, self._scheduler = job, scheduler
        self._world_size = layout.world_size

    @classmethod
    def affinity(cls) -> int:
        """0: available, but never chosen by submitit's "auto"."""
        return 0

    @property
    def script(self) -> Path:
        """The file that is submitted."""
        return self._job.path / self._scheduler.script

    def _submit_command(self, command: str) -> core.Job[Any]:
        # Not submitit's own method: that one has no time limit, prints the client's output itself, and leaves a second
        # copy of the script in the folder.
        job_id = self._scheduler.submit(self.script)
        return self.job_class(folder=self.folder, job_id=job_id, tasks=list(range(self._num_tasks())))

    def _internal_process_submissions(self, delayed_submissions: list[DelayedSubmission]) -> list[core.Job[Any]]:
        if len(delayed_submissions) != 1:
            raise SubmitError("submitit's batches are not supported: submit one job at a time")
        # Not submitit's own method: that one pickles the task once the client has printed the id. A client that times
        # out or dies never does, and the job may be in the queue anyway.
        write_json(self._job.task, delayed_submissions[0].function)
        return [self._submit_command(self._submitit_command_str)]

    def _num_tasks(self) -> int:
        return self._world_size

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        return read_regular(self.script).decode()

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        return self._scheduler.submit_argv(submission_file_path)

    @staticmethod
    def _get_job_id_from_submission_command(string: bytes | str) -> str:
        return string.decode() if isinstance(string, bytes) else string


def check_installed() -> None:
    """Check that ranks and torchrun will find what they look for by entry points. Raises RefusedError.

    They do not if vllm-hpc runs from a checkout that is only on PYTHONPATH, or is the working directory, or that was
    installed (pip install -e) before it had all of them.
    """
    found = _installed_entry_points()
    if not all(found):
        state = "is not installed" if not any(found) else "has changed since it was installed"
        raise RefusedError(
            f"vllm-hpc {state} in {sys.prefix}, whose Python runs the ranks: "
            f"install it with '{sys.executable} -m pip install -e {Path(__file__).parents[2]}'"
        )


def _installed_entry_points() -> list[bool]:
    """Which of them there are; read from our own metadata: searching all packages is a third of a submission's time."""
    try:
        points = distribution("vllm-hpc").entry_points
    except PackageNotFoundError:
        return [False]
    return [
        any(point.value.startswith("vllm_hpc.") for point in points.select(group=group, name=name))
        for group, name in _ENTRY_POINTS
    ]


def check_torch(option: str = "--rehearse") -> None:
    """Check for torch, where vLLM is not needed: its ranks need torchrun, the store and gloo. Raises RequestError."""
    if find_spec("torch") is None:
        raise RequestError(
            f"{option} needs torch, for torchrun and gloo, but it is not installed in {sys.prefix}: "
            f"install it with '{sys.executable} -m pip install torch'"
        )


def submit_script(job: JobFolder, scheduler: Scheduler, layout: Layout) -> str:
    """Submit the script in the job folder and return the scheduler's id. Raises SubmitError."""
    executor = ScriptExecutor(job, scheduler, layout)
    return str(executor.submit(RankTask(str(job.path))).job_id)
