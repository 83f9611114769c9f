"""Which submission of a job is its last, and whether a later one may be in the queue whose answer was lost.

Who submits a job again first marks the id of its last submission (JobFolder.take), then submits, then records the new
id. A mark without a new id means that this is going on, or was interrupted, or that the answer was lost.
"""

from __future__ import annotations

from itertools import count

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission, submission_of, submitted_as
from vllm_hpc.jobfolder.records import Attempt, Submitted, read_json

# Seconds by which the clocks of a node and of the file server may differ.
_SKEW_S = 60


def recorded_submission(folder: JobFolder) -> Submitted | None:
    """The record of the job's last submission, None if there is none."""
    return read_json(folder.submitted, Submitted)


def last_submission(folder: JobFolder, attempts: list[Attempt] | None = None) -> str | None:
    """The id of the job's last submission, None if it is not known. Default ``attempts``: those in the folder.

    If the answer to a submission was lost, its id becomes known when its script starts: from the script's attempt.
    """
    submitted = recorded_submission(folder)
    mark = folder.taken(submitted.job_id) if submitted else None
    if submitted and mark and not mark.exists():
        return submitted.job_id
    attempts = folder.attempts() if attempts is None else attempts
    started = submission_of(attempts[-1].job_id) if attempts else None
    if submitted is None or mark is None or started is None:
        return submitted.job_id if submitted else started
    if is_submission(attempts[-1].job_id, submitted.job_id):
        return submitted.job_id
    is_later = attempts[-1].started_at > mark.stat().st_mtime - _SKEW_S
    return started if is_later and not was_resubmitted(folder, started) else submitted.job_id


def times_resubmitted(folder: JobFolder, job_id: str | None) -> int:
    """How often it was tried to submit the job again after that submission (None: one whose id is not known)."""
    return next(number for number in count() if not folder.taken(job_id, number + 1).exists())


def was_resubmitted(folder: JobFolder, job_id: str) -> bool:
    """Whether it was tried to submit the job again after the submission that the scheduler shows as ``job_id``."""
    return any(folder.taken(one).exists() for one in submitted_as(job_id))


def is_in_doubt(folder: JobFolder, job_id: str | None) -> bool:
    """Whether the scheduler may have a submission later than ``job_id``, the last one that is known."""
    return job_id is None or folder.taken(job_id).exists()
