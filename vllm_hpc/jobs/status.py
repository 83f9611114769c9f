"""The state of a job and the progress of its rows. UNKNOWN rather than a guess."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.metrics import settle_metrics
from vllm_hpc.jobfolder.passed import passed_file, remove_passed
from vllm_hpc.jobfolder.record_files import why_unreadable
from vllm_hpc.jobfolder.records import JobRecord, Progress
from vllm_hpc.jobfolder.submissions import is_in_doubt, last_submission
from vllm_hpc.jobs.doubt import describe_doubt
from vllm_hpc.jobs.in_words import describe_status
from vllm_hpc.jobs.progress import (
    CountError,
    Rows,
    current_speed,
    final_rows,
    mean_speed,
    read_progress,
    reported_rows,
)
from vllm_hpc.jobs.rank_outcomes import LATE_S, judge_ranks
from vllm_hpc.jobs.replica_status import ReplicaStatus, generated_tokens, replica_statuses, walltime_end
from vllm_hpc.jobs.resubmission import describe, pending_resubmission, resubmit
from vllm_hpc.jobs.stage import is_drained, read_ranks
from vllm_hpc.jobs.task_states import FINAL, State, TaskStates
from vllm_hpc.schedulers.polling import StatusCache
from vllm_hpc.schedulers.scheduler import Question
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.errors import JobNotFoundError, VllmHpcError
from vllm_hpc.spec.rehearsal import named_model
from vllm_hpc.spec.words import counted


class Status(Drawn, msgspec.Struct, frozen=True, kw_only=True):
    """What ``status --json`` prints. ``tokens_per_s`` counts output tokens, ``eta_s`` is seconds; None if unknown.

    In a list, a job that cannot be read has no ``scheduler``, and ``reason`` says why. ``awaits_resubmission``: the job
    has ended and wants another attempt that it could not submit itself. ``program``: the code that it runs, in words.
    ``has_rows`` false: that drives the engine itself, and no rows are counted. ``tokens``: output tokens generated so
    far, also by rows in flight. ``created_at`` and ``ends_at`` are Unix seconds: when it was submitted, and when the
    walltime of an attempt that runs ends.
    """

    job: str
    job_id: str | None
    scheduler: str
    state: State
    reason: str
    rows: Rows
    tokens_per_s: float | None = None
    eta_s: float | None = None
    attempts: int = 0
    rehearsal: bool = False
    awaits_resubmission: bool = False
    program: str | None = None
    has_rows: bool = True
    created_at: float | None = None
    model: str | None = None
    tokens: int | None = None
    replicas: tuple[ReplicaStatus, ...] = ()
    ends_at: float | None = None

    def __repr__(self) -> str:
        return f"Status {describe_status(self)}"

    @property
    def is_final(self) -> bool:
        """Whether the state will not change by itself any more."""
        return self.state in FINAL


def read_status(
    folder: JobFolder, cache: StatusCache | None = None, submits: bool = False, record: JobRecord | None = None
) -> Status:
    """The current state of a job, or one as old as ``cache`` allows. Raises JobNotFoundError.

    ``submits``: whether to submit an attempt that the job wants and could not submit itself, and to put in order what
    the ranks of one that has ended could not. ``record``: its job.json, where that has just been read.
    """
    passed = passed_file(folder) if submits else None
    status = _read_status(folder, cache, submits, record)
    # It may have submitted itself again, and so marked the previous id, while the scheduler was asked about that one.
    while (status.is_final or status.state == "UNKNOWN") and status.job_id != last_submission(folder):
        status = _read_status(folder, cache, submits)
    if submits and status.is_final:
        settle_metrics(folder, status.state)
        if passed is not None:
            remove_passed(folder, passed)
    return status


def read_statuses(folders: Iterable[JobFolder]) -> list[Status]:
    """The current states of several jobs; each scheduler is asked once for all of its jobs, if it can be asked so.

    A job that cannot be read is UNKNOWN, so that the others are still listed.
    """
    cache = StatusCache(float("inf"), shares=True)
    folders, questions = list(folders), defaultdict[str, list[Question]](list)
    records: dict[JobFolder, JobRecord] = {}
    for folder in folders:
        with suppress(VllmHpcError, OSError):
            record, attempts = folder.job(), folder.attempts()
            records[folder] = record
            question = TaskStates(folder, record, last_submission(folder, attempts), attempts, cache).question()
            if question is not None:
                questions[record.scheduler].append(question)
    cache.query_all(questions)
    return [_read_or_explain(folder, cache, records.get(folder)) for folder in folders]


def _read_or_explain(folder: JobFolder, cache: StatusCache, record: JobRecord | None) -> Status:
    try:
        return read_status(folder, cache, record=record)
    except JobNotFoundError:
        reason = why_unreadable(folder.job_json)
    except VllmHpcError as error:
        reason = str(error)
    except OSError as error:
        reason = f"{error.filename or folder.path} cannot be read: {error.strerror}"
    except MemoryError:
        reason = "its rows need more memory than there is here"
    return unreadable(folder, reason)


def unreadable(folder: JobFolder, reason: str) -> Status:
    """The status of a job of which nothing can be read."""
    return Status(job=str(folder.path), job_id=None, scheduler="", state="UNKNOWN", reason=reason, rows=Rows(0))


class _Submission(NamedTuple):
    """What the scheduler and the job's own records say of its last submission, before its rows are looked at."""

    state: State
    reason: str
    job_id: str | None
    awaits_resubmission: bool = False


def _read_status(
    folder: JobFolder, cache: StatusCache | None, submits: bool, record: JobRecord | None = None
) -> Status:
    record = record or folder.job()
    attempts = folder.attempts()
    job_id = last_submission(folder, attempts)
    # State first, counts second: rows that finish in between then belong to a job that still runs.
    tasks = TaskStates(folder, record, job_id, attempts, cache or StatusCache())
    submission = _submission(folder, tasks, job_id, submits)
    progress = read_progress(folder, record) if record.has_rows else []
    rows, uncounted = _count(folder, record, progress, submission.state in FINAL)
    state, reason = _by_rows(folder, record, tasks, submission, uncounted or rows)
    running = tasks.current if state == "RUNNING" else set[int]()
    rate, eta = mean_speed(progress), None
    if state == "RUNNING":
        rate, eta = current_speed([one for one in progress if one.attempt in running], rows, record)
        if is_drained(folder, tasks.current):
            eta = None
    return Status(
        job=str(folder.path),
        job_id=submission.job_id,
        scheduler=record.scheduler,
        state=state,
        reason=reason,
        rows=rows,
        tokens_per_s=rate,
        eta_s=eta,
        attempts=max([1, *(sum(a.task == task for a in attempts) for task in range(record.plan.layout.tasks))]),
        rehearsal=record.request.rehearse,
        awaits_resubmission=submission.awaits_resubmission,
        program=record.program.title if record.program else None,
        has_rows=record.has_rows,
        created_at=record.created_at,
        model=named_model(record.request.model),
        tokens=generated_tokens(progress, running),
        replicas=replica_statuses(progress, running),
        ends_at=walltime_end(record.request.time, attempts, running),
    )


def _submission(folder: JobFolder, tasks: TaskStates, job_id: str | None, submits: bool) -> _Submission:
    """Where the job stands, also if it wants another attempt: ``submits`` submits that."""
    state, reason = tasks.overall()
    # Who deletes a job in the scheduler wants no other attempt.
    again = pending_resubmission(folder, job_id) if state in FINAL and state != "CANCELLED" else None
    if again is not None:
        found = resubmit(folder, again) if submits else describe(again)
        return _Submission(found.state, found.reason, found.job_id, found.is_awaited)
    if state in FINAL and is_in_doubt(folder, job_id):
        return _Submission("UNKNOWN", describe_doubt(folder, job_id), job_id)
    return _Submission(state, reason, job_id)


def _by_rows(
    folder: JobFolder, record: JobRecord, tasks: TaskStates, submission: _Submission, rows: Rows | str
) -> tuple[State, str]:
    """State and reason once its rows, or the ends of its ranks, are known; a text says why rows are not counted."""
    state, reason = submission.state, submission.reason
    if isinstance(rows, str):
        return _without_count(folder, state, reason, rows)
    if not record.has_rows:
        return judge_ranks(folder, record, tasks, state, reason)
    has_all = rows.done == rows.total
    if state == "COMPLETED" or (has_all and _was_only_ended(folder, record, state)):
        state, reason = _completeness(rows, is_drained(folder, tasks.current) or folder.cancelled.exists())
        if state != "COMPLETED" and time.time() - tasks.without_record_since < LATE_S:
            return "RUNNING", "it ended normally; waiting for its exit record and its last rows to become visible here"
    return state, reason


def _count(folder: JobFolder, record: JobRecord, progress: list[Progress], is_final: bool) -> tuple[Rows, str]:
    """The rows, and why those of a job that has ended are only as its replicas counted them, if they are."""
    if not record.has_rows:
        return Rows(0), ""
    try:
        return final_rows(folder, record, progress) if is_final else reported_rows(progress, record), ""
    except CountError as error:
        return reported_rows(progress, record), str(error)


def _without_count(folder: JobFolder, state: State, reason: str, why: str) -> tuple[State, str]:
    """The state of a job that has ended and whose rows cannot be counted.

    Whoever waits for a job of their own is told so; of another user's that may only be what they do not show.
    """
    if state != "COMPLETED":
        return state, f"{reason}; {why}"
    return ("FAILED" if folder.is_mine else "UNKNOWN"), f"the script ended normally, but {why}"


def _was_only_ended(folder: JobFolder, record: JobRecord, state: State) -> bool:
    """Whether a final state casts no doubt on the rows: the job, or a part of it, was killed, but no rank raised.

    In an array, other tasks may have done the rows of a task that died. An error that a rank raised after its last row
    (such as diverged ranks) remains a failure.
    """
    if state != "FAILED":
        return state in FINAL
    return not any(rank.has_raised for rank in read_ranks(folder, record))


def _completeness(rows: Rows, was_stopped: bool) -> tuple[State, str]:
    """``was_stopped``: whether somebody, or the walltime, wanted the ranks to end before they had every row."""
    missing = rows.missing
    if missing and not was_stopped:
        what = "no rank wrote a row" if missing == rows.total else f"{counted(missing, 'row')} missing"
        return "FAILED", f"the script ended normally, but {what}: see the logs, then 'vllm-hpc resume'"
    parts = [f"{counted(rows.failed, 'row')} with errors"] * bool(rows.failed)
    parts += [f"{counted(missing, 'row')} missing"] * bool(missing)
    return ("PARTIAL", " and ".join(parts)) if parts else ("COMPLETED", "every row has a result")
