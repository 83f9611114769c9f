"""Submissions in doubt: interrupted, or with an answer that was lost, so the scheduler may or may not have the job.

Such a job is UNKNOWN until its script starts, or until the user says which of the two it is: 'cancel --job-id' gives
the id, 'resume --not-submitted' says that there is none. Both are checked with the scheduler as far as it can tell.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Lost, Submitted
from vllm_hpc.jobfolder.submissions import is_in_doubt, last_submission, times_resubmitted, was_resubmitted
from vllm_hpc.schedulers.client import SUBMIT_MAY_TAKE_S, ByHandError, ClientError, ClientTimeoutError, call_client
from vllm_hpc.schedulers.record_submission import record_submission
from vllm_hpc.schedulers.scheduler import Scheduler, check_scheduler_installed, get_scheduler
from vllm_hpc.spec.errors import FailedError, RefusedError, RequestError, SubmitError
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.write_file import replacing

if TYPE_CHECKING:
    from vllm_hpc.jobs.status import Status


@contextmanager
def noting_loss(folder: JobFolder, mark: Path | None) -> Iterator[None]:
    """Record that a submission has ended without an answer: it may have succeeded, but is not going on any more.

    ``mark``: that of JobFolder.take, None for the first submission.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, ClientTimeoutError) or not isinstance(error, (ClientError, RefusedError)):
            words = str(error) if isinstance(error, SubmitError) else "its submission was interrupted."
            name = mark.name if mark else ""
            with suppress(OSError):  # a full disk: the submission then counts as going on for a while
                write_json(folder.lost, Lost(name, words, isinstance(error, ByHandError)))
        raise


def left_to_user(folder: JobFolder) -> str | None:
    """How the user makes the last submission, which could not be made from here; None if that is not so."""
    job_id = last_submission(folder)
    lost = _lost(folder, job_id) if is_in_doubt(folder, job_id) else None
    return lost.words if lost and lost.is_by_hand else None


def describe_doubt(folder: JobFolder, job_id: str | None) -> str:
    """What is known of a submission in doubt, after the submission ``job_id``, and how the user can end the doubt."""
    lost = _lost(folder, job_id)
    if lost and lost.is_by_hand:
        return f"{lost.words} {_by_hand(folder)}"
    words = lost.words if lost else "its submission was interrupted, or is going on."
    return f"{words} The scheduler may or may not have the job: {_ways_out(folder)}"


def adopt(folder: JobFolder, status: Status, answer: str) -> None:
    """Record the id, as its client printed it, of a job whose submission is in doubt.

    Raises RequestError if it is not, or if the scheduler has no such job of this user; ClientError if it does not
    answer.
    """
    if not is_in_doubt(folder, status.job_id) and status.state != "UNKNOWN":
        raise RequestError(
            f"--job-id is for a job whose id is not known; that of {folder.path.name!r} is {status.job_id}: remove it"
        )
    check_scheduler_installed(status.scheduler)
    scheduler = get_scheduler(status.scheduler)
    printed = scheduler.id_pattern.fullmatch(answer.strip())
    job_id = printed[1] if printed else answer.strip()
    if not scheduler.is_id(job_id):
        raise RequestError(f"--job-id must be an id as {scheduler.name} prints it, not {answer[:100]!r}")
    if folder.has(folder.taken(job_id)) or job_id == status.job_id:
        raise RequestError(f"--job-id {job_id} is an earlier submission of this job: give the id of the last one")
    cluster = read_regular(folder.cluster, follow_links=False) if folder.cluster.exists() else None
    scheduler.remember(folder, answer)
    try:
        _check_has(folder, scheduler, job_id)
        record_submission(folder, Submitted(scheduler.name, job_id, time.time()))
    except BaseException:
        folder.cluster.unlink(missing_ok=True)
        if cluster is not None:
            with replacing(folder.cluster, 0o644) as file:
                file.write(cluster)
        raise


def check_not_submitted(folder: JobFolder, status: Status) -> int:
    """Refuse 'resume --not-submitted' if the scheduler has the job, or if it may be on its way. Raises FailedError.

    Returns the number of the mark to take. It is counted before the scheduler is asked: of two processes that both find
    nothing there, one takes it.
    """
    if status.state in ("PENDING", "RUNNING") and not status.awaits_resubmission:
        raise FailedError(
            f"the scheduler has the job: it is {status.state} ({status.reason}): wait for it, or cancel it"
        )
    if status.is_final and not is_in_doubt(folder, status.job_id):
        return 1
    number = times_resubmitted(folder, status.job_id) + 1
    if is_in_doubt(folder, status.job_id) and _lost(folder, status.job_id) is None:
        _check_not_going_on(folder, status.job_id)
    scheduler = get_scheduler(status.scheduler)
    found = _find(folder, scheduler)
    if found is not None:
        option = "" if status.job_id and is_submission(found, status.job_id) else f" --job-id {found}"
        raise FailedError(
            f"{scheduler.name} has the job, as {found}: wait for it, or cancel it: 'vllm-hpc cancel "
            f"{_path(folder)}{option}'"
        )
    return number


def _check_not_going_on(folder: JobFolder, job_id: str | None) -> None:
    number = times_resubmitted(folder, job_id)
    began = folder.taken(job_id, number).stat().st_mtime if number else folder.job().created_at
    age = time.time() - began
    if abs(age) < SUBMIT_MAY_TAKE_S:  # a file server's clock may be ahead, but not without limit
        raise FailedError(
            f"a submission of this job began {max(age, 0):.0f} s ago and may be going on: try again in "
            f"{SUBMIT_MAY_TAKE_S - age:.0f} s"
        )


def _check_has(folder: JobFolder, scheduler: Scheduler, job_id: str) -> None:
    """Check that the scheduler has this job, and that it is this user's and made of this job's script."""
    if scheduler.find_job is None:
        layout = folder.job().plan.layout
        tasks = [f"{job_id}_{task}" for task in range(layout.tasks)] if layout.is_array else [job_id]
        seen = scheduler.query(folder, job_id, tasks, call_client)[tasks[0]]
        if seen.phase in ("forgotten", "unknown"):
            raise RequestError(f"--job-id {job_id}: {seen.reason}: {_ways_out(folder)}")
        return
    found = _find(folder, scheduler)
    if job_id != found:
        has = f"it has {found}: give that" if found else _ways_out(folder)
        raise RequestError(
            f"--job-id {job_id}: {scheduler.name} has no such job of yours with this job's script: {has}"
        )


def _find(folder: JobFolder, scheduler: Scheduler) -> str | None:
    """The id under which the scheduler has the job, if not that of an earlier submission."""
    if scheduler.find_job is None:
        return None
    earlier: list[str] = []
    while (found := scheduler.find_job(folder, earlier)) is not None and was_resubmitted(folder, found):
        earlier.append(found)
    return found


def _lost(folder: JobFolder, job_id: str | None) -> Lost | None:
    """The record of how the last submission after ``job_id`` ended; None if it may be going on."""
    lost, number = folder.read(folder.lost, Lost), times_resubmitted(folder, job_id)
    mark = folder.taken(job_id, number).name if number else ""
    return lost if lost and lost.mark == mark else None


def _ways_out(folder: JobFolder) -> str:
    path = _path(folder)
    return (
        f"if it has, 'vllm-hpc cancel {path} --job-id ID' cancels it; if not, 'vllm-hpc resume {path} --not-submitted' "
        "submits it"
    )


def _by_hand(folder: JobFolder) -> str:
    """What to do about a job that only the user can have submitted."""
    path = _path(folder)
    return (
        f"If you have: its folder shows it once it runs, and 'vllm-hpc cancel {path} --job-id ID' cancels it; if not: "
        f"'vllm-hpc resume {path} --not-submitted' submits it from here"
    )


def _path(folder: JobFolder) -> str:
    return shlex.quote(str(folder.path))
