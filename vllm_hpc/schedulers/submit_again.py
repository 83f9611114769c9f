"""Submits a job's script again: once, whoever else tries, and under a new id that is on record.

A PBS job's script does so at its end, on a compute node (``in_script/resubmit``). Where that failed, a login node does.
"""

from __future__ import annotations

import time

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.record_submission import DeletedAgainError, record_submission
from vllm_hpc.schedulers.scheduler import Scheduler, get_scheduler
from vllm_hpc.spec.errors import FailedError


class TakenError(FailedError):
    """Another process submits the job, or began to and never said how that ended."""


def submit_again(folder: JobFolder, before: Submitted) -> str:
    """Submit the script, record the new id and return it.

    Raises TakenError, ClientTimeoutError if the scheduler may have the job, FailedError if it has not.
    """
    try:
        taken = folder.take(before.job_id)
    except FileExistsError:
        raise TakenError(f"not submitted again: another process does so ({folder.taken(before.job_id)})") from None
    scheduler = get_scheduler(before.scheduler)
    try:
        job_id = scheduler.submit(folder.path / scheduler.script)
    except ClientTimeoutError:
        raise  # it may have been submitted: submitting again would run the job twice
    except ClientError:
        taken.unlink(missing_ok=True)
        raise
    _record(folder, scheduler, before, job_id)
    return job_id


def find_lost(folder: JobFolder, before: Submitted) -> str | None:
    """The id of a submission whose answer was lost, which is then on record; None if the scheduler has no such job.

    Raises ClientError if that cannot be known.
    """
    scheduler = get_scheduler(before.scheduler)
    job_id = last_submission(folder)  # if it has begun, by its attempt
    if job_id in (None, before.job_id):
        if scheduler.find_job is None:
            raise ClientError(f"{scheduler.name} cannot be asked for a job without its id")
        job_id = scheduler.find_job(folder, (*before.earlier, before.job_id))
    if job_id is not None:
        _record(folder, scheduler, before, job_id)
    return job_id


def _record(folder: JobFolder, scheduler: Scheduler, before: Submitted, job_id: str) -> None:
    """Keep the new id. Raises SubmitError, with the job deleted if that is possible, if it cannot be kept."""
    try:
        record_submission(folder, Submitted(before.scheduler, job_id, time.time(), (*before.earlier, before.job_id)))
    except DeletedAgainError:
        folder.taken(before.job_id).unlink(missing_ok=True)
        raise
    if folder.cancelled.exists():
        scheduler.cancel(folder, job_id)
