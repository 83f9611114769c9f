"""Submits a job's script again: once, whoever else tries, and under a new id that is on record.

A PBS job's script does so at its end, on a compute node (``in_script/resubmit``). Where that failed, a login node does.
"""

from __future__ import annotations

import shlex
import time
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobfolder.submissions import last_submission, recorded_submission, times_resubmitted
from vllm_hpc.schedulers.client import ClientError, ClientMissingError, ClientTimeoutError
from vllm_hpc.schedulers.record_submission import record_submission
from vllm_hpc.schedulers.scheduler import Scheduler, get_scheduler
from vllm_hpc.spec.errors import FailedError


class TakenError(FailedError):
    """Another process submits the job, or has done so, or began to and never said how that ended."""


def submit_again(folder: JobFolder, before: Submitted, number: int = 1) -> str:
    """Submit the script, record the new id and return it.

    ``number``: of the mark to take, if earlier submissions after ``before`` were lost. Raises TakenError,
    ClientTimeoutError if the scheduler may have the job, another ClientError if it has not, FailedError.
    """
    taken = _take(folder, before, number)
    scheduler = get_scheduler(before.scheduler)
    try:
        job_id = scheduler.submit(folder.path / scheduler.script)
        _record(folder, before, job_id)
    except ClientTimeoutError:
        raise  # it may have been submitted: submitting again would run the job twice
    except ClientError:
        taken.unlink(missing_ok=True)
        raise
    cancel_if_asked(folder, scheduler, job_id)
    return job_id


def _take(folder: JobFolder, before: Submitted, number: int) -> Path:
    """Take a mark, as the only process. Raises TakenError, or FailedError if the folder cannot be written."""
    mark = folder.taken(before.job_id, number)
    try:
        folder.take(before.job_id, number)
    except FileExistsError:
        raise TakenError(f"not submitted again: another process does so ({mark})") from None
    except OSError as error:  # a full disk
        raise FailedError(f"not submitted again: cannot write {mark}: {error.strerror}: free some space") from None
    recorded = recorded_submission(folder)
    if recorded is not None and recorded.job_id != before.job_id:
        mark.unlink(missing_ok=True)
        raise TakenError(f"not submitted again: another process has done so, as {recorded.job_id}")
    return mark


def find_or_submit(folder: JobFolder, before: Submitted) -> str:
    """The id of a submission after ``before`` whose answer was lost, or of a new one if the scheduler has no such job.

    The mark of the lost one stays, and marks are counted before the scheduler is asked: of two processes that both find
    nothing there, one takes the next. Raises as submit_again does.
    """
    number = times_resubmitted(folder, before.job_id) + 1
    try:
        job_id = _find_lost(folder, before)
    except ClientMissingError as error:
        raise FailedError(f"not submitted again: it may be submitted already, and {error}") from None
    except ClientError as error:
        raise ClientTimeoutError(f"it may be submitted already, and {error}") from None
    if job_id is None:
        return submit_again(folder, before, number)
    _record(folder, before, job_id)
    cancel_if_asked(folder, get_scheduler(before.scheduler), job_id)
    return job_id


def _find_lost(folder: JobFolder, before: Submitted) -> str | None:
    """The id of a submission whose answer was lost; None if the scheduler has no such job.

    Raises ClientError if that cannot be known.
    """
    started = last_submission(folder)  # if it has begun, by its attempt
    if started is not None and not is_submission(started, before.job_id):
        return started
    scheduler = get_scheduler(before.scheduler)
    if scheduler.find_job is None:
        raise ClientError(f"{scheduler.name} cannot be asked for a job without its id")
    return scheduler.find_job(folder, (*before.earlier, before.job_id))


def _record(folder: JobFolder, before: Submitted, job_id: str) -> None:
    """Keep the new id. Raises SubmitError, with the job deleted if that is possible, if it cannot be kept."""
    record_submission(folder, Submitted(before.scheduler, job_id, time.time(), (*before.earlier, before.job_id)))


def cancel_if_asked(folder: JobFolder, scheduler: Scheduler, job_id: str) -> None:
    """Cancel a job that the user cancelled while it was submitted. Raises FailedError if that fails."""
    if not folder.cancelled.exists():
        return
    try:
        scheduler.cancel(folder, job_id)
    except FailedError as error:
        raise FailedError(
            f"the job was cancelled while it was submitted as {job_id}, and that one could not be cancelled ({error}): "
            f"'vllm-hpc cancel {shlex.quote(str(folder.path))}' tries it again"
        ) from None
