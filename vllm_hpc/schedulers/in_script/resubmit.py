"""Submit a job again from inside it: ``vllm_hpc.in_job resubmit FOLDER ATTEMPT again|over``, run by its script.

A PBS job's owner cannot requeue it, so the script submits itself, under a new id. An array is submitted again as a
whole, by the task that ends last, if any task wants it ("again"). So every task calls this, however it ends, unless a
signal ended it: then PBS may run it again, or somebody has deleted it.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Submitted, read_json, submission_of, write_json
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.spec.errors import FailedError, VllmHpcError


class Ended(msgspec.Struct, frozen=True):
    """state/ended-<id>-<task>.json: a task of an array has ended, and whether it wants another attempt."""

    wants: bool


def main(argv: list[str]) -> int:
    """Do it and report in the job's log; returns 1 if that failed."""
    folder, attempt, wants = JobFolder(argv[0]), int(argv[1]), argv[2] == "again"
    try:
        said = chain(folder, attempt, wants)
    except VllmHpcError as error:
        print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"vllm-hpc: {said}", flush=True)
    return 0


def chain(folder: JobFolder, attempt: int, wants: bool) -> str:
    """Submit the job again, unless another task will. Returns what was done, in words. Raises FailedError."""
    record = folder.job()
    this = next(one for one in folder.attempts() if one.attempt == attempt)
    submission = submission_of(this.job_id)
    # None: the client that submitted it never answered.
    before = read_json(folder.submitted, Submitted) or Submitted(record.scheduler, submission, record.created_at)
    if before.job_id != submission:
        raise FailedError(f"not submitted again: the job now runs as {before.job_id}")
    tasks = record.plan.layout.tasks
    if tasks > 1:
        wishes = _note_end(folder, submission, this.task, wants, tasks)
        if len(wishes) < tasks:
            return f"{tasks - len(wishes)} task(s) of the array still run; the last one submits it again if necessary"
        wants = any(wishes)
    if not wants or folder.cancelled.exists() or folder.drain.exists():
        return "not submitted again"
    return f"submitted again as {_submit(folder, before)}"


def _note_end(folder: JobFolder, submission: str, task: int, wants: bool, tasks: int) -> list[bool]:
    """Record a task's end; returns the wishes of all tasks that have ended. Writing first refreshes NFS's view."""
    write_json(folder.task_end(submission, task), Ended(wants))
    found = (read_json(folder.task_end(submission, one), Ended) for one in range(tasks))
    return [ended.wants for ended in found if ended is not None]


def _submit(folder: JobFolder, before: Submitted) -> str:
    """Submit the script, only once even if others try too, and record the new id. Raises FailedError."""
    try:
        taken = folder.take(before.job_id)
    except FileExistsError:
        raise FailedError(f"not submitted again: another process does so ({folder.taken(before.job_id)})") from None
    scheduler = get_scheduler(before.scheduler)
    try:
        job_id = scheduler.submit(folder.path / scheduler.script)
    except ClientTimeoutError:
        raise  # it may have been submitted: submitting again would run the job twice
    except ClientError:
        taken.unlink(missing_ok=True)
        raise
    try:
        write_json(folder.submitted, Submitted(before.scheduler, job_id, time.time(), (*before.earlier, before.job_id)))
    except OSError as error:  # a full disk: a job whose id is not recorded could not be found
        with suppress(ClientError, OSError):
            scheduler.cancel(folder, job_id)
            taken.unlink(missing_ok=True)
        raise FailedError(f"submitted again as {job_id}, then deleted: its id cannot be recorded: {error}") from None
    if folder.cancelled.exists():
        scheduler.cancel(folder, job_id)
    return job_id
