"""Keeps the id under which a scheduler has taken a job, whoever submitted it, and however often."""

from __future__ import annotations

import shlex

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import SubmitError, VllmHpcError


class DeletedAgainError(ClientError):
    """The scheduler had taken the job, and has deleted it: its id could not be recorded."""


def record_submission(folder: JobFolder, submitted: Submitted) -> None:
    """Record a submission; what was noted of a lost one, or of one that a login node was to make, is over.

    A job whose id is not recorded could not be followed, so it is deleted. Raises DeletedAgainError, or SubmitError if
    that was not possible either.
    """
    try:
        write_json(folder.submitted, msgspec.structs.replace(submitted, uuid=folder.uuid))
    except OSError as error:  # a full disk
        raise _delete(folder, submitted, error.strerror or str(error)) from None
    for done in (folder.again, folder.lost):
        done.unlink(missing_ok=True)


def _delete(folder: JobFolder, submitted: Submitted, why: str) -> SubmitError:
    job_id = submitted.job_id
    try:
        get_scheduler(submitted.scheduler).delete(folder, job_id)
    except (VllmHpcError, OSError):
        return SubmitError(
            f"the job was submitted as {job_id}, but that cannot be recorded ({why}), and the job could not be "
            f"deleted: it may run; 'vllm-hpc cancel {shlex.quote(str(folder.path))} --job-id {job_id}' records and "
            "cancels it."
        )
    return DeletedAgainError(
        f"the job was submitted as {job_id}, and deleted again, because its id cannot be recorded ({why}): free some "
        "space, then submit it again"
    )
