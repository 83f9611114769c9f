"""Find jobs: by folder, name or id, and all under a folder."""

from __future__ import annotations

import os

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_job, read_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs.drawn_lists import Jobs, Statuses
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.job_folders import job_folders
from vllm_hpc.schedulers.scheduler import installed_scheduler
from vllm_hpc.spec.errors import JobNotFoundError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path


def find_job(job: str | int | os.PathLike[str], job_dir: str | None = None) -> Job:
    """Find a job by its folder, its name under ``job_dir``, or its job id. Raises JobNotFoundError.

    ``job_dir`` None is the job_dir of $VLLM_HPC_PROFILE's profile, else ./runs.
    """
    job_dir = default_job_dir() if job_dir is None else job_dir
    text = os.fspath(job) if isinstance(job, os.PathLike) else str(job)
    parent = as_path(job_dir, "--job-dir")
    for folder in (as_path(text, "job"), as_path(str(parent / text), "job")):
        if JobFolder(folder).is_there():
            return Job(folder)
    # One's own first: in a shared folder, another user's may claim any id.
    for found in sorted(list_jobs(job_dir), key=lambda one: not one.folder.is_mine):
        if text in _ids(found):
            return found
    raise JobNotFoundError(
        f"no job {text!r}: give its folder, its name under {job_dir!r} (--job-dir, or --profile for its job_dir), "
        "or its id"
    )


def _ids(job: Job) -> list[str]:
    """The ids of a job and of its array tasks as the scheduler shows them, also without the PBS server's name."""
    record, submitted, last = job.folder.job(), read_json(job.folder.submitted, Submitted), job.job_id
    layout, scheduler = record.plan.layout, installed_scheduler(record.scheduler)
    found = [submitted.job_id, *submitted.earlier] if submitted else []
    found += [last] if last is not None and last not in found else []
    if scheduler is not None and layout.is_array and last is not None:
        found += [scheduler.task_name(last, task) for task in range(layout.tasks)]
    return [*found, *(one.split(".")[0] for one in found)]


def list_jobs(job_dir: str | None = None) -> Jobs:
    """All jobs under ``job_dir`` that can be read, oldest first. Raises RequestError if the folder cannot.

    ``job_dir`` None is the job_dir of $VLLM_HPC_PROFILE's profile, else ./runs.
    """
    return Jobs(Job(folder.path) for folder in job_folders(job_dir) if read_job(folder.job_json))


def list_statuses(job_dir: str | None = None) -> Statuses:
    """The status of all jobs under ``job_dir``, oldest first. Their scheduler is asked once for all of them.

    A job that cannot be read is UNKNOWN, with the reason. Raises RequestError if the folder itself cannot be read.
    """
    from vllm_hpc.jobs.status import read_statuses

    return Statuses(read_statuses(job_folders(job_dir)))
