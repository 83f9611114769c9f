"""cancel: ends a job in its scheduler, also one that is being submitted at this moment."""

from __future__ import annotations

import os
import shlex

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import JobToCancel, job_to_cancel
from vllm_hpc.jobfolder.passed import passed_file, remove_passed
from vllm_hpc.jobfolder.record_files import read_job
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobfolder.submissions import is_in_doubt, last_submission
from vllm_hpc.jobs.doubt import adopt
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.schedulers.client import ClientTimeoutError
from vllm_hpc.schedulers.scheduler import check_scheduler_installed, get_scheduler, installed_scheduler
from vllm_hpc.spec.errors import FailedError, RefusedError
from vllm_hpc.spec.write_file import make_mark


def cancel(job: JobFolder, job_id: str | None = None) -> Status:
    """Cancel a job and return its status, as ``vllm_hpc.Job.cancel`` does."""
    folder = folder_to_cancel(job)
    passed = passed_file(folder)
    status = _cancel(folder, job_id)
    if passed is not None and status.is_final:
        remove_passed(folder, passed)
    if not folder.left_out:
        return status
    names = ", ".join(sorted(folder.left_out))
    return msgspec.structs.replace(
        status, reason=f"{status.reason}; left out, for others have written or can write to it: {names}"
    )


def folder_to_cancel(job: JobFolder) -> JobToCancel:
    """The job's folder, to cancel it. Raises RequestError if it is another user's, JobNotFoundError."""
    return job_to_cancel(job, _as_root(job) if os.geteuid() == 0 else "")


def _as_root(job: JobFolder) -> str:
    """How the superuser cancels another user's job: nothing in that folder is obeyed, and least of all as root."""
    record, submitted = read_job(job.job_json), job.read(job.submitted, Submitted)
    scheduler = installed_scheduler(record.scheduler) if record else None
    if scheduler is None or submitted is None or not scheduler.cancel_client or not scheduler.is_id(submitted.job_id):
        return ""
    return f"; as root you may run, if that is its id: {scheduler.cancel_client} {shlex.quote(submitted.job_id)}"


def _cancel(folder: JobToCancel, job_id: str | None) -> Status:
    status = read_status(folder)
    if job_id is not None:
        adopt(folder, status, job_id)
        status = read_status(folder)
    if status.awaits_resubmission or is_in_doubt(folder, status.job_id):
        # From now on nobody submits it again. Who is doing so cancels it, once its id is known; and should the
        # scheduler have it without that, its script ends as it starts.
        make_mark(folder.cancelled)
        status = read_status(folder)
    if status.is_final:
        return status
    if is_in_doubt(folder, status.job_id):
        raise FailedError(f"the cancel is on record, but it is not known which job to cancel: {status.reason}")
    _cancel_on_record(folder, status)
    return read_status(folder)


def _cancel_on_record(folder: JobToCancel, status: Status) -> None:
    """Record the cancel first: a scheduler without accounting soon forgets why the job ended."""
    check_scheduler_installed(status.scheduler)
    was_cancelled = folder.cancelled.exists()
    make_mark(folder.cancelled)
    scheduler = get_scheduler(status.scheduler)
    try:
        scheduler.delete(folder, status.job_id or "")
        newest = last_submission(folder)
        if newest not in (None, status.job_id):  # the job had just submitted itself again
            scheduler.delete(folder, str(newest))
    except ClientTimeoutError:
        raise  # the job may have been cancelled
    except (FailedError, RefusedError):
        if status.state == "UNKNOWN" and read_status(folder).is_final:
            return  # the scheduler now responds and does not know the job: the record of the cancel decides
        # The job continues: however it ends later, it was not this cancel.
        if not was_cancelled:
            folder.cancelled.unlink(missing_ok=True)
        raise
