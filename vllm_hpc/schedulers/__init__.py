"""A scheduler is data (argv, id pattern, template) and a few pure functions; each lives in a module of its own.

To add one: a module here with a ``Scheduler`` in it, its name in ``SCHEDULERS`` below and in
``vllm_hpc.request.SchedulerName``, and a template in templates/.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vllm_hpc.errors import SubmitError
from vllm_hpc.jobfolder import JobFolder

SCHEDULERS = ("slurm", "local")
# Seconds a scheduler's client may take. A busy controller answers in seconds; a dead one lets clients hang.
CLIENT_TIMEOUT_S = 60


@dataclass(frozen=True)
class Sighting:
    """What a scheduler says of a job. ``phase``: waiting, running, gone, or unknown; ``reason`` in its own words."""

    phase: str
    reason: str = ""


@dataclass(frozen=True)
class Scheduler:
    """How to talk to one scheduler. ``script`` is the name that the rendered template has in the job folder."""

    name: str
    template: str
    script: str
    id_pattern: re.Pattern[str]
    submit_argv: Callable[[Path], list[str]]
    cancel: Callable[[JobFolder, str], None]
    look: Callable[[JobFolder, str], Sighting]

    def read_job_id(self, output: str) -> str:
        """The job id in what the submission command printed. Raises SubmitError."""
        match = self.id_pattern.search(output)
        if not match:
            raise SubmitError(f"{self.name} took the script but named no job id; it said: {output.strip()!r}")
        return match[1]


def get_scheduler(name: str) -> Scheduler:
    """The scheduler of that name."""
    scheduler: Scheduler = import_module(f"vllm_hpc.schedulers.{name}").SCHEDULER
    return scheduler


def find_scheduler() -> tuple[str, str]:
    """The scheduler that this machine offers, and why: Slurm where sbatch is, else local."""
    if path := shutil.which("sbatch"):
        return "slurm", f"sbatch is {path}"
    return "local", "no sbatch here"


def call_client(argv: list[str]) -> str:
    """Run a scheduler's client and return what it printed. Raises SubmitError with the client's own words."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=CLIENT_TIMEOUT_S, stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise SubmitError(
            f"{argv[0]} is not here: go to a login node of the cluster, or use --scheduler local"
        ) from None
    except subprocess.TimeoutExpired:
        raise SubmitError(f"{argv[0]} did not answer within {CLIENT_TIMEOUT_S} s: is the controller up?") from None
    if done.returncode:
        words = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise SubmitError(f"{Path(argv[0]).name} refused: {words}")
    return done.stdout
