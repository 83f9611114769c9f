"""Submits on a login node what a job could not submit itself: its next attempt.

The job's script has recorded that it wants one (state/again.json), and has ended.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission
from vllm_hpc.jobfolder.records import Again, Submitted, read_json, write_json
from vllm_hpc.jobfolder.submissions import recorded_submission, times_resubmitted
from vllm_hpc.jobs.task_states import State
from vllm_hpc.schedulers.client import SUBMIT_MAY_TAKE_S, ClientError
from vllm_hpc.schedulers.record_submission import DeletedAgainError
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.submit_again import TakenError, find_or_submit, submit_again
from vllm_hpc.spec.errors import FailedError

# Seconds until the next try: whoever waits looks more often.
_PAUSE_S = 30.0


class Resubmission(NamedTuple):
    """Where the next attempt of a job stands: the job's state, the id under which it was submitted last, and why.

    ``is_awaited``: nobody has submitted it yet, as far as is known.
    """

    state: State
    job_id: str
    reason: str
    is_awaited: bool = True


def pending_resubmission(folder: JobFolder, job_id: str | None) -> Again | None:
    """The attempt that a job wants whose last submission has ended; None if it wants none, or no longer."""
    again = read_json(folder.again, Again)
    if again is None or job_id is None or not is_submission(again.job_id, job_id):
        return None
    if folder.cancelled.exists() or folder.drain.exists() or folder.last_number() > again.attempt:
        return None
    return again


def describe(again: Again) -> Resubmission:
    """Where that attempt stands if nobody submits it now."""
    if again.is_lasting:
        return _refused_for_good(again)
    return _pending(again, f"{_why(again)}: 'vllm-hpc status' submits it")


def resubmit(folder: JobFolder, again: Again) -> Resubmission:
    """Submit that attempt, if it is due and this user's own. Does not raise if the scheduler refuses."""
    if again.is_lasting:
        return _refused_for_good(again)
    if folder.job_json.stat().st_uid != os.geteuid():
        return _pending(again, f"{_why(again)}: 'vllm-hpc status' of its owner submits it")
    pause = again.next_at - time.time()
    if pause > 0:
        return _pending(again, f"{_why(again)}; next try in {pause:.0f} s")
    # None: the client that submitted it never answered.
    before = recorded_submission(folder) or Submitted(folder.job().scheduler, again.job_id, 0.0)
    if not is_submission(again.job_id, before.job_id):
        return Resubmission("PENDING", before.job_id, f"submitted again as {before.job_id}", is_awaited=False)
    try:
        job_id = _submit_or_find(folder, before)
    except DeletedAgainError as error:  # a full disk: each further try would queue a job and delete it
        return Resubmission("FAILED", again.job_id, str(error))
    except ClientError as error:
        return _after_refusal(folder, again, before, error)
    except FailedError as error:
        return _pending(again, f"{_why(again)}; {error}")
    reason = f"submitted again as {job_id}, which the job itself could not: {again.reason}"
    return Resubmission("PENDING", job_id, reason, is_awaited=False)


def _submit_or_find(folder: JobFolder, before: Submitted) -> str:
    """Raises FailedError, among them ClientTimeoutError if the job may be submitted."""
    number = times_resubmitted(folder, before.job_id)
    if not number:
        return submit_again(folder, before)
    mark = folder.taken(before.job_id, number)
    try:
        age = time.time() - mark.stat().st_mtime
    except FileNotFoundError:
        age = 0.0  # whoever made it was refused just now
    if age < SUBMIT_MAY_TAKE_S:
        raise TakenError(f"not submitted again: another process does so ({mark})")
    return find_or_submit(folder, before)


def _after_refusal(folder: JobFolder, again: Again, before: Submitted, error: ClientError) -> Resubmission:
    """Record why, and when to try again, or that nobody is to: the scheduler would refuse for ever."""
    is_lasting = get_scheduler(before.scheduler).is_lasting(error)
    noted = msgspec.structs.replace(again, reason=str(error), next_at=time.time() + _PAUSE_S, is_lasting=is_lasting)
    with suppress(OSError):  # a full disk: the next call tries again at once
        write_json(folder.again, noted)
    if is_lasting:
        return _refused_for_good(noted)
    return _pending(again, f"attempt {again.attempt} wants another one, and {error}; next try in {_PAUSE_S:.0f} s")


def _refused_for_good(again: Again) -> Resubmission:
    reason = f"{_why(again)}: once that is mended, 'vllm-hpc resume' submits it"
    return Resubmission("FAILED", again.job_id, reason, is_awaited=False)


def _pending(again: Again, reason: str) -> Resubmission:
    return Resubmission("PENDING", again.job_id, reason)


def _why(again: Again) -> str:
    return f"attempt {again.attempt} could not submit the next one ({again.reason})"
