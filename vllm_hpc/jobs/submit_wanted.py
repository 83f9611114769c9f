"""Submits on a login node what a job could not submit itself: its next attempt.

The job's script has recorded that it wants one (state/again.json), and has ended.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import NamedTuple

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Again, Submitted, is_submission, read_json, write_json
from vllm_hpc.schedulers.client import SUBMIT_MAY_TAKE_S, ClientError, ClientTimeoutError
from vllm_hpc.schedulers.submit_again import TakenError, find_lost, submit_again
from vllm_hpc.spec.errors import FailedError

# Seconds until the next try: whoever waits looks more often.
_PAUSE_S = 30.0


class Went(NamedTuple):
    """How a job that wants another attempt goes on: the id under which it was submitted last, and what to say."""

    job_id: str
    said: str


def wanted(folder: JobFolder, job_id: str | None) -> Again | None:
    """The attempt that a job wants whose last submission has ended; None if it wants none, or no longer."""
    again = read_json(folder.again, Again)
    if again is None or job_id is None or not is_submission(again.job_id, job_id):
        return None
    if folder.cancelled.exists() or folder.drain.exists() or folder.last_number() > again.attempt:
        return None
    return again


def tell(again: Again) -> Went:
    """What there is to say of a wish that is not seen to."""
    return Went(again.job_id, f"{_why(again)}: 'vllm-hpc status' submits it")


def is_wish(folder: JobFolder, job_id: str | None, reason: str) -> bool:
    """Whether ``reason``, of a status, is that the job has ended and wants another attempt."""
    again = wanted(folder, job_id)
    return again is not None and reason == tell(again).said


def go_on(folder: JobFolder, again: Again) -> Went:
    """Submit that attempt, if it is due and this user's own. Does not raise if the scheduler refuses."""
    if folder.job_json.stat().st_uid != os.geteuid():
        return Went(again.job_id, f"{_why(again)}: 'vllm-hpc status' of its owner submits it")
    pause = again.next_at - time.time()
    if pause > 0:
        return Went(again.job_id, f"{_why(again)}; next try in {pause:.0f} s")
    before = read_json(folder.submitted, Submitted) or Submitted(folder.job().scheduler, again.job_id, 0.0)
    try:
        job_id = _submit_or_find(folder, before)
    except FailedError as error:
        said = str(error)
        with suppress(OSError):  # a full disk: the next call tries again at once
            next_at = time.time() + _PAUSE_S
            write_json(folder.again, Again(job_id=again.job_id, attempt=again.attempt, said=said, next_at=next_at))
        return Went(
            again.job_id, f"attempt {again.attempt} wants another one, and {said}; next try in {_PAUSE_S:.0f} s"
        )
    return Went(job_id, f"submitted again as {job_id}, which the job itself could not: {again.said}")


def _submit_or_find(folder: JobFolder, before: Submitted) -> str:
    """Raises FailedError, among them ClientTimeoutError if the job may be submitted."""
    try:
        return submit_again(folder, before)
    except TakenError:
        mark = folder.taken(before.job_id)
        if time.time() - mark.stat().st_mtime < SUBMIT_MAY_TAKE_S:
            raise
    try:
        job_id = find_lost(folder, before)
    except ClientError as error:
        raise ClientTimeoutError(f"it may be submitted already, and {error}") from None
    if job_id is not None:
        return job_id
    mark.unlink(missing_ok=True)
    return submit_again(folder, before)


def _why(again: Again) -> str:
    return f"attempt {again.attempt} could not submit the next one ({again.said})"
