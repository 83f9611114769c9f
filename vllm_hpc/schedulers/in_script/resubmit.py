"""Submit a job again from inside it: ``vllm_hpc.in_job resubmit FOLDER ATTEMPT again|over``, run by its script.

A PBS job's owner cannot requeue it, so the script submits itself, under a new id. An array is submitted again as a
whole, by the task that ends last, if any task wants it ("again"). So every task calls this, however it ends, unless a
signal ended it: then PBS may run it again, or somebody has deleted it.

A server that is down, or refuses, is asked again until the walltime is over. What it has not taken by then, or never
takes from this host, is on record for a login node (state/again.json).
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission, submission_of
from vllm_hpc.jobfolder.own_folder import EarlierJobFolder, OwnJobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Again, Attempt, Submitted
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.own_script import ForeignScriptError
from vllm_hpc.schedulers.record_submission import DeletedAgainError
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.submit_again import find_or_submit, submit_again
from vllm_hpc.spec.errors import FailedError, VllmHpcError
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.words import counted

# Seconds between two tries: at first, and at most.
_PAUSES_S = (5.0, 60.0)
# Seconds before the end of the walltime after which no try begins, and for how long to try where that is not known.
_LEFT_S, _UNLIMITED_S = 5.0, 600.0
# Seconds until a job whose id was lost on its way is looked for: a busy server may still be taking it.
_LOOK_AFTER_S = 15.0
_STEP_S = 0.5


class Ended(msgspec.Struct, frozen=True):
    """state/ended-<id>-<task>.json: a task of an array has ended, and whether it wants another attempt."""

    wants: bool


def main(argv: list[str], kind: type[OwnJobFolder] = OwnJobFolder) -> int:
    """Do it and report in the job's log; returns 1 if that failed. ``kind``: who may have written its records."""
    folder, attempt, wants = kind(argv[0]), int(argv[1]), argv[2] == "again"
    try:
        said = chain(folder, attempt, wants)
    except VllmHpcError as error:
        print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)
        return 1
    print(f"vllm-hpc: {said}", flush=True)
    return 0


def main_of_0_1(argv: list[str]) -> int:
    """The same for a script of 0.1."""
    return main(argv, EarlierJobFolder)


def chain(folder: JobFolder, attempt: int, wants: bool) -> str:
    """Submit the job again, unless another task will. Returns what was done, in words.

    Raises FailedError if no other attempt will follow.
    """
    record = folder.job()
    this = next(one for one in folder.attempts() if one.attempt == attempt)
    submission = submission_of(this.job_id)
    # None: the client that submitted it never answered.
    before = folder.read(folder.submitted, Submitted) or Submitted(record.scheduler, submission, record.created_at)
    if not is_submission(this.job_id, before.job_id):
        raise FailedError(f"not submitted again: the job now runs as {before.job_id}")
    tasks = record.plan.layout.tasks
    if tasks > 1:
        wishes = _note_end(folder, submission, this.task, wants, tasks)
        if len(wishes) < tasks:
            others = counted(tasks - len(wishes), "task")
            return f"still to end: {others} of the array; the last one submits it again if necessary"
        wants = any(wishes)
    if not wants or folder.cancelled.exists() or folder.drain.exists():
        return "not submitted again"
    return _Tries(folder, before, this).run()


def _note_end(folder: JobFolder, submission: str, task: int, wants: bool, tasks: int) -> list[bool]:
    """Record a task's end; returns the wishes of all tasks that have ended. Writing first refreshes NFS's view."""
    write_json(folder.task_end(submission, task), Ended(wants))
    found = (folder.read(folder.task_end(submission, one), Ended) for one in range(tasks))
    return [ended.wants for ended in found if ended is not None]


class _Tries:
    """Submits a job again, as often as it takes and as long as its walltime lasts."""

    def __init__(self, folder: JobFolder, before: Submitted, this: Attempt) -> None:
        self._folder, self._before, self._attempt = folder, before, this.attempt
        self._scheduler = get_scheduler(before.scheduler)
        limit = folder.job().request.time
        end = this.started_at + parse_walltime(limit) - _LEFT_S if limit else time.time() + _UNLIMITED_S
        self._end, self._pause = end, _PAUSES_S[0]
        self._is_stopped = False

    def run(self) -> str:
        """Returns what was done, in words. Raises FailedError if no other attempt will follow."""
        submit: Callable[[JobFolder, Submitted], str] = submit_again
        while True:
            try:
                return f"submitted again as {submit(self._folder, self._before)}"
            except DeletedAgainError:  # a full disk: each further try would queue a job and delete it
                raise
            except ClientTimeoutError as error:
                # From now on it may be there.
                reason, submit = str(error), find_or_submit
                self._pause = max(self._pause, _LOOK_AFTER_S)
            except ClientError as error:
                reason = str(error)
                if self._scheduler.is_lasting(error):
                    self._folder.again.unlink(missing_ok=True)
                    raise
                if isinstance(error, ForeignScriptError) or self._scheduler.refuses_host(error):
                    return self._leave(reason)
            if time.time() + self._pause >= self._end:
                return self._leave(reason)
            self._wait(reason)

    def _wait(self, reason: str) -> None:
        """Say it, wait, and wait longer the next time. Raises FailedError if the job is to stop meanwhile."""
        until = time.time() + self._pause
        self._note(reason, until)
        words = f"not submitted again yet: {reason}; next try in {self._pause:.0f} s"
        print(f"vllm-hpc: {words}", file=sys.stderr, flush=True)
        # The script ignores TERM by now, and so would this: but who deletes the job wants no other.
        before = signal.signal(signal.SIGTERM, lambda *_: self._stop())
        try:
            while True:
                if self._is_stopped or self._folder.cancelled.exists() or self._folder.drain.exists():
                    self._folder.again.unlink(missing_ok=True)
                    raise FailedError("not submitted again: the job was told to stop")
                if time.time() >= until:  # only now: it may be told to stop until then
                    break
                time.sleep(_STEP_S)
        finally:
            signal.signal(signal.SIGTERM, before)
        self._pause = min(2 * self._pause, _PAUSES_S[1])

    def _leave(self, reason: str) -> str:
        self._note(reason, time.time())
        return f"not submitted again from here: {reason}; 'vllm-hpc status' on a login node does it"

    def _note(self, reason: str, next_at: float) -> None:
        folder, job_id = self._folder, self._before.job_id
        record = Again(job_id=job_id, attempt=self._attempt, reason=reason, next_at=next_at, uuid=folder.uuid)
        try:
            write_json(folder.again, record)
        except OSError as error:  # a full disk
            raise FailedError(f"not submitted again: {reason}; and that cannot be recorded: {error}") from None

    def _stop(self) -> None:
        # At the end of the walltime PBS sends the same signal: then a login node goes on.
        self._is_stopped = time.time() < self._end
