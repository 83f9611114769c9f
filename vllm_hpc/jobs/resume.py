"""resume: submits a job's script again, in the same folder, for the remaining rows."""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import check_unchanged
from vllm_hpc.jobfolder.own_folder import OwnJobFolder, own_folder
from vllm_hpc.jobfolder.passed import remove_passed, write_passed
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Retry, Submitted
from vllm_hpc.jobfolder.shards import finished
from vllm_hpc.jobfolder.sorted_copy import restore_sorted
from vllm_hpc.jobfolder.submissions import is_in_doubt, recorded_submission
from vllm_hpc.jobs.doubt import check_not_submitted, describe_doubt, noting_loss
from vllm_hpc.jobs.failure import DIVERGED, has_diverged
from vllm_hpc.jobs.known_jobs import remember
from vllm_hpc.jobs.render_again import NO_CHANGES, Anew, Changes, render_again, write_again
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.schedulers.client import ByHandError, ClientError, ClientTimeoutError
from vllm_hpc.schedulers.lifecycle import check_lifecycle
from vllm_hpc.schedulers.record_submission import record_submission
from vllm_hpc.schedulers.scheduler import check_scheduler_installed, get_scheduler
from vllm_hpc.schedulers.submit_again import cancel_if_asked
from vllm_hpc.schedulers.submitit_executor import check_installed, submit_script
from vllm_hpc.spec.errors import FailedError, RequestError
from vllm_hpc.spec.ownership import NotMineError, read_mine
from vllm_hpc.spec.passed_variables import check_set
from vllm_hpc.spec.row_order import PREFIX
from vllm_hpc.spec.write_file import make_mark, temporary_name

_GOING_ON = "another process is resuming this job: see 'vllm-hpc status {}'"


class Left(msgspec.Struct, frozen=True):
    """Rows that a resume would run: those that are missing, and those with an error that are to be retried."""

    missing: int
    failed: int


class Resumed(msgspec.Struct, frozen=True):
    """What a resume has done: how many rows are left (0: nothing was submitted), and what to tell of the script.

    A job that runs no rows counts as one.
    """

    left: int
    note: str | None = None


def resume(
    job: JobFolder, retry_errors: bool = False, not_submitted: bool = False, changes: Changes = NO_CHANGES
) -> Resumed:
    """Submit the job again, with today's profile and ``changes``.

    ``not_submitted``: the user says that the scheduler does not have a submission in doubt, or a job in state UNKNOWN.
    Raises InputError if the input or its order has changed, SubmitError, FailedError if the job has not ended, or if
    its ranks diverged and no row is missing (those that are there may be wrong).
    """
    folder = own_folder(job, "resume")
    check_installed()
    check_scheduler_installed(folder.job().scheduler)
    # First: what is marked from now on is not an earlier attempt's.
    markers = _Markers(folder)
    before = recorded_submission(folder)
    status = read_status(folder)
    number = 1
    if not_submitted:
        number = check_not_submitted(folder, status)
    elif not status.awaits_resubmission:
        _check_ended(folder, status)
    left = _what_is_left(folder, status, retry_errors)
    if not left:
        return Resumed(0)
    anew = _render(folder, changes)
    restored = restore_sorted(folder) if folder.job().plan.order == PREFIX else None
    taken = _take(folder, status.job_id, number)
    try:
        if recorded_submission(folder) != before:
            raise FailedError(_GOING_ON.format(folder.path))
        _make_ready(folder, anew, markers, retry_errors)
    except BaseException:
        taken.unlink(missing_ok=True)
        raise
    by_hand = _submit(folder, taken, markers)
    remember(folder)
    return Resumed(left, "; ".join(filter(None, (restored, anew.note, by_hand))) or None)


def _what_is_left(folder: JobFolder, status: Status, retry_errors: bool) -> int:
    """How many rows, or runs, there are to submit. Raises what ``resume`` raises where it cannot be, or must not."""
    check_unchanged(folder)
    _check_program(folder)
    left = rows_left(folder, retry_errors) if folder.job().has_rows else _run_left(folder, status, retry_errors)
    if not left.missing + left.failed and has_diverged(folder):
        raise FailedError(f"nothing to resume: no row is missing, but {DIVERGED}")
    return left.missing + left.failed


def _render(folder: OwnJobFolder, changes: Changes) -> Anew:
    """What is submitted: nothing is written yet. Raises RequestError, also where the ranks would miss a variable."""
    anew = render_again(folder, changes)
    if anew.script is None:
        check_lifecycle(folder, folder.path / get_scheduler(folder.job().scheduler).script)
    check_set((anew.record or folder.job()).request.pass_env, is_resume=True)
    return anew


def _make_ready(folder: OwnJobFolder, anew: Anew, markers: _Markers, retry_errors: bool) -> None:
    """Write what the next attempt reads, and remove what told the earlier ones to stop."""
    record = anew.record or folder.job()
    if record.passes_by_file:
        write_passed(folder, record.request.pass_env)
    markers.clear(Retry(folder.last_number()) if retry_errors else None)
    write_again(folder, anew)


def _submit(folder: JobFolder, taken: Path, markers: _Markers) -> str | None:
    """Submit and record it. The mark stays unless nothing was submitted for certain: the job must not run twice.

    Returns how the user submits it, if that cannot be done from here.
    """
    record = folder.job()
    scheduler = get_scheduler(record.scheduler)
    try:
        with noting_loss(folder, taken):
            job_id = submit_script(folder, scheduler, record.plan.layout)
            record_submission(folder, Submitted(record.scheduler, job_id, time.time()))
        cancel_if_asked(folder, scheduler, job_id)
    except ByHandError as error:
        return str(error)
    except ClientTimeoutError as error:
        raise FailedError(f"{error} The job may or may not be submitted; see 'vllm-hpc status {folder.path}'") from None
    except ClientError:
        with suppress(OSError):  # a full disk, which may be the error itself
            markers.restore()
        remove_passed(folder)
        taken.unlink(missing_ok=True)
        raise
    return None


def rows_left(folder: JobFolder, retry_errors: bool = False) -> Left:
    """The rows that are left. Errors that an earlier resume should have retried, but did not, count as missing."""
    total = folder.job().rows
    tallies = finished(folder, total, folder.errors_up_to()).by_lane.values()
    failed = sum(tally.failed for tally in tallies)
    return Left(total - sum(tally.done for tally in tallies) - failed, failed if retry_errors else 0)


def _check_program(folder: JobFolder) -> None:
    """Refuse code that has changed since the submission: the ranks would. Raises RequestError."""
    program = folder.job().program
    if program is None or not program.sha256:
        return
    copy = folder.copy_of(program)
    try:
        digest = hashlib.sha256(read_mine(copy)).hexdigest()
    except NotMineError as error:
        raise RequestError(f"{error}: submit a new job") from None
    except OSError as error:
        raise RequestError(f"{str(copy)!r} cannot be used: {error.strerror or error}: submit a new job") from None
    if digest != program.sha256:
        raise RequestError(f"{str(copy)!r} has changed since the submission: restore it, or submit a new job")


def _run_left(folder: JobFolder, status: Status, retry_errors: bool) -> Left:
    """The one run of a script, or of a program that drives the engine, which starts anew.

    Raises RequestError for --retry-errors, FailedError if it has ended well.
    """
    if retry_errors:
        raise RequestError("--retry-errors is for rows, and this job runs none: leave it out")
    if status.state == "COMPLETED":
        raise FailedError(
            f"nothing to resume: the {status.program} has ended well (COMPLETED): to run it again, submit a new job"
        )
    return Left(1, 0)


def _check_ended(folder: JobFolder, status: Status) -> None:
    if status.job_id is not None and is_in_doubt(folder, status.job_id):
        raise FailedError(
            f"another process is resuming this job, or was interrupted: {describe_doubt(folder, status.job_id)}"
        )
    if status.state == "UNKNOWN":
        advice = (
            "" if status.job_id is None else "; try again, or, if the scheduler does not have it, add --not-submitted"
        )
        raise FailedError(f"it is not known whether the job has ended ({status.reason}): nothing was submitted{advice}")
    if not status.is_final:
        raise FailedError(f"the job is {status.state} ({status.reason}): resume it when it has ended, or cancel it")


def _take(folder: JobFolder, job_id: str | None, number: int) -> Path:
    """Let only one of two concurrent resumes continue: state/resumed-<id> marks that job id as resubmitted."""
    try:
        return folder.take(job_id, number)
    except FileExistsError:
        raise FailedError(_GOING_ON.format(folder.path)) from None
    except OSError as error:
        raise RequestError(f"cannot write to {folder.taken(job_id).parent}: {error.strerror}") from None


class _Markers:
    """The markers of earlier attempts, removed before the next one, and restored if it is not submitted."""

    def __init__(self, folder: JobFolder) -> None:
        self._file = folder.retry
        self._retry = folder.read(folder.retry, Retry)
        self._markers = {one: made for one in (folder.cancelled, folder.drain) if (made := _made_at(one))}

    def clear(self, retry: Retry | None) -> None:
        """Remove the markers, and record whether errors are to be retried. Raises FailedError if one is new."""
        try:
            for marker, made in self._markers.items():
                _remove(marker, made)
        except FailedError:
            self.restore()
            raise
        if retry is not None:
            write_json(self._file, retry)

    def restore(self) -> None:
        """Put everything back: the job was not submitted."""
        for marker in self._markers:
            make_mark(marker)
        if self._retry is None:
            self._file.unlink(missing_ok=True)
        else:
            write_json(self._file, self._retry)


def _made_at(marker: Path) -> int:
    """When a marker was made, or made again; 0 if there is none."""
    try:
        return marker.lstat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _remove(marker: Path, made: int) -> None:
    """Remove an earlier attempt's marker, but not one that was made since. Raises FailedError then.

    It is looked at under a name of its own: whoever makes it at this moment makes another file.
    """
    aside = temporary_name(marker)
    try:
        marker.rename(aside)
    except FileNotFoundError:
        return
    is_new = aside.lstat().st_mtime_ns != made
    aside.unlink()
    if is_new:
        make_mark(marker)
        raise FailedError("nothing was submitted: the job was told to stop meanwhile")
