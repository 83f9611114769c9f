"""Slurm: sbatch, scancel."""

from __future__ import annotations

import re
from pathlib import Path

from vllm_hpc.jobfolder import JobFolder
from vllm_hpc.schedulers import Scheduler, Sighting, call_client


def submit_argv(script: Path) -> list[str]:
    """sbatch, told to print nothing but the id."""
    return ["sbatch", "--parsable", str(script)]


def look(job: JobFolder, job_id: str) -> Sighting:
    """What Slurm says is not asked yet: the job's own records are all there is."""
    return Sighting("unknown", "the job has written no exit record yet; squeue knows whether it waits or runs")


def cancel(job: JobFolder, job_id: str) -> None:
    """Cancel the job in Slurm. Raises SubmitError with its words."""
    call_client(["scancel", job_id])


SCHEDULER = Scheduler(
    name="slurm",
    template="slurm.sbatch.j2",
    script="script.sbatch",
    # --parsable prints ID, or ID;CLUSTER in a federation (man sbatch).
    id_pattern=re.compile(r"^(\d+)(?:;.*)?$", re.MULTILINE),
    submit_argv=submit_argv,
    cancel=cancel,
    look=look,
)
