"""The states of a job's tasks: from its folder first, and only then from the scheduler."""

from __future__ import annotations

import time
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, JobRecord
from vllm_hpc.jobs.doubt import describe_doubt
from vllm_hpc.jobs.failure import cause_of_failure
from vllm_hpc.jobs.stage import ending, read_ranks, stage
from vllm_hpc.schedulers.polling import StatusCache
from vllm_hpc.schedulers.scheduler import JobState, Question, installed_scheduler
from vllm_hpc.spec.words import counted

State = Literal["PENDING", "RUNNING", "COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "UNKNOWN"]
# States that do not change by themselves. (A preempted job that is requeued is PENDING again.)
FINAL = frozenset({"COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED"})
_PHASES: dict[str, State] = {
    "waiting": "PENDING",
    "running": "RUNNING",
    "completed": "COMPLETED",
    "failed": "FAILED",
    "cancelled": "CANCELLED",
    "timeout": "TIMEOUT",
    "preempted": "PREEMPTED",
}
# The state of an array is the first of these that any task is in.
_ORDER: tuple[State, ...] = (
    "RUNNING", "PENDING", "UNKNOWN", "PREEMPTED", "FAILED", "TIMEOUT", "CANCELLED", "PARTIAL", "COMPLETED",
)  # fmt: skip

# Seconds after which a rank without a new heartbeat is taken for gone: they come every 5 s (engine/health/watchdog.py).
# NFS may show one a minute late; a wrong guess costs time, not rows, and such a rank ends by itself.
ALIVE_S = 30


class Verdict(msgspec.Struct, frozen=True):
    """state/verdict-<task>.json: how a task ended according to the scheduler, after ``attempt`` attempts.

    ``state`` is UNKNOWN if a node of it died, and the scheduler, which may queue it again, still had it: then it is
    asked again, and the reason counts once it has forgotten the job. ``heard_at`` says when it was asked. ``job_id``
    tells submissions apart: before its first attempt, a new one has the same number of attempts as the previous one.
    """

    attempt: int
    state: State
    reason: str
    heard_at: float = 0.0
    job_id: str | None = None


class TaskStates:
    """The states of a job's tasks (one unless it is an array). The scheduler is asked once, and only if needed."""

    def __init__(
        self, folder: JobFolder, record: JobRecord, job_id: str | None, attempts: list[Attempt], cache: StatusCache
    ) -> None:
        scheduler = installed_scheduler(record.scheduler)
        self._runs_here = scheduler is not None and scheduler.runs_here
        self._has_ended = bool(scheduler and job_id and scheduler.forgotten_has_ended(job_id))
        self._folder, self._record, self._job_id, self._cache = folder, record, job_id, cache
        # When the scheduler first reported a task as completed whose exit record is not visible yet; 0: no such task.
        self.without_record_since = 0.0
        # 'vllm-hpc resume' submits under a new id: how the job ended before no longer matters.
        current = [attempt for attempt in attempts if _is_of(attempt, job_id)]
        self._last = {attempt.task: attempt for attempt in current}

    @property
    def current(self) -> set[int]:
        """The current or last attempt of each task that has started."""
        return {attempt.attempt for attempt in self._last.values()}

    @cached_property
    def _stage(self) -> str:
        """What the whole job does, the same for all of its tasks: it reads the files of every replica."""
        return stage(self._folder, self._record, self.current)

    def question(self) -> Question | None:
        """What the scheduler must be asked, None if the folder has the whole answer."""
        tasks = [task for task in range(self._record.plan.layout.tasks) if self._from_folder(task) is None]
        if self._job_id is None or not tasks:
            return None
        return Question(self._folder, self._job_id, tuple(self._ids(self._job_id, tasks).values()))

    def overall(self) -> tuple[State, str]:
        """State and reason of the whole job."""
        layout = self._record.plan.layout
        settled = {task: self._from_folder(task) for task in range(layout.tasks)}
        seen = self._query([task for task, state in settled.items() if state is None])
        found = {task: state or self._from_query(task, seen[task]) for task, state in settled.items()}
        state = next(state for state in _ORDER if any(one == state for one, _ in found.values()))
        those = [task for task, (one, _) in found.items() if one == state]
        reason = found[those[0]][1]
        if layout.is_array:
            reason = f"{len(those)} of {counted(layout.tasks, 'task')}; task {those[0]}: {reason}"
        return state, reason

    def _from_folder(self, task: int) -> tuple[State, str] | None:
        """The final state in the folder's own records, None if the scheduler must be asked."""
        attempt = self._last.get(task)
        ended = self._exit_of(attempt)
        if ended is not None and self._is_last_word(ended):
            return self._from_exit(ended, task)
        verdict = self._verdict(task)
        if verdict and verdict.state in FINAL:
            return self._by_verdict(verdict)
        if self._job_id is None:
            return "UNKNOWN", describe_doubt(self._folder, None)
        return None

    def _verdict(self, task: int) -> Verdict | None:
        """What the scheduler has said of a task's last attempt, None if that is not known."""
        attempt, verdict = self._last.get(task), self._folder.read_kept(self._folder.verdict(task), Verdict)
        is_of_it = verdict and (verdict.attempt, verdict.job_id) == (attempt.attempt if attempt else 0, self._job_id)
        return verdict if is_of_it else None

    def _from_query(self, task: int, seen: JobState) -> tuple[State, str]:
        attempt = self._last.get(task)
        state, reason = self._from_scheduler(seen, self._exit_of(attempt), task)
        may_return = state == "UNKNOWN" and seen.phase == "node_failed"
        if self._runs_here or not (state in FINAL or may_return):
            return state, reason
        heard = seen.reason if may_return else reason
        verdict = Verdict(attempt.attempt if attempt else 0, state, heard, time.time(), self._job_id)
        # If it cannot be saved, do not wait for the exit record: every call would start a new wait.
        is_saved = self._save_verdict(task, verdict)
        return self._by_verdict(verdict) if is_saved and not may_return else (state, reason)

    def _by_verdict(self, verdict: Verdict) -> tuple[State, str]:
        if verdict.state == "COMPLETED":
            self.without_record_since = max(self.without_record_since, verdict.heard_at)
        return verdict.state, verdict.reason

    def _query(self, tasks: list[int]) -> dict[int, JobState]:
        """The scheduler's states of these tasks; it is asked once, and only if there are any."""
        if self._job_id is None or not tasks:
            return {}
        ids = self._ids(self._job_id, tasks)
        is_leaving = any(self._exit_of(self._last.get(task)) for task in tasks)
        seen = self._cache.query(self._record.scheduler, self._folder, self._job_id, list(ids.values()), is_leaving)
        return {task: seen.get(id_) or JobState("forgotten", "not known to it") for task, id_ in ids.items()}

    def _ids(self, job_id: str, tasks: list[int]) -> dict[int, str]:
        """The scheduler's ids of these tasks."""
        is_array = self._record.plan.layout.is_array
        return {task: f"{job_id}_{task}" if is_array else job_id for task in tasks}

    def _exit_of(self, attempt: Attempt | None) -> ExitRecord | None:
        """The exit record of a task's last attempt."""
        return self._folder.exit_of(attempt.attempt) if attempt is not None else None

    def _newest(self, task: int) -> Attempt | None:
        """A task's last attempt, read again from the folder."""
        found = (attempt for attempt in self._folder.attempts() if _is_of(attempt, self._job_id))
        return max((one for one in found if one.task == task), key=lambda one: one.attempt, default=None)

    def _is_last_word(self, ended: ExitRecord) -> bool:
        """Whether the script's own record is final; only the scheduler knows of requeues and the cause of a signal."""
        if ended.cause == "requeue":
            return False
        settled = ended.exit_code == 0 or ended.cause in ("exit", "cancelled", "timeout")
        return settled or self._runs_here

    def _from_exit(self, ended: ExitRecord, task: int) -> tuple[State, str]:
        # A signal that arrives while bash still reads the script may end it with code 0 before any rank has started.
        if ended.exit_code == 0 and (ended.cause != "cancelled" or self._has_begun(ended.attempt)):
            return "COMPLETED", ""
        if ended.cause == "cancelled":
            return "CANCELLED", "cancelled"
        if ended.cause == "timeout":
            return "TIMEOUT", "the walltime was reached"
        return "FAILED", cause_of_failure(self._folder, _how(ended), task)

    def _has_begun(self, attempt: int) -> bool:
        return any(rank.attempt == attempt for rank in read_ranks(self._folder, self._record))

    def _from_scheduler(self, seen: JobState, ended: ExitRecord | None, task: int) -> tuple[State, str]:
        if seen.phase in ("completed", "failed", "gone", "node_failed"):
            # The exit record may have been written since it was last read.
            late = self._exit_of(self._newest(task))
            if late is not None and self._is_last_word(late):
                return self._from_exit(late, task)
            if seen.phase == "completed":
                return "COMPLETED", ""
            if seen.phase == "node_failed" and self._record.request.max_requeues:
                return (
                    "UNKNOWN",
                    f"{seen.reason}: the scheduler may queue it again, and else forgets it: ask again later",
                )
            if not seen.reason:
                return "FAILED", cause_of_failure(self._folder, _how(late) if late else "it left no exit record", task)
            error = cause_of_failure(self._folder, "", task)
            return "FAILED", f"{seen.reason}; {error}" if error else seen.reason
        if seen.phase == "running" and not seen.reason:
            return "RUNNING", ending(self._folder, ended) if ended else self._stage
        if seen.phase == "forgotten":
            return self._forgotten(seen, ended, task)
        return _PHASES.get(seen.phase, "UNKNOWN"), seen.reason

    def _forgotten(self, seen: JobState, ended: ExitRecord | None, task: int) -> tuple[State, str]:
        """The state of a task that the scheduler does not know (any more)."""
        if self._folder.cancelled.exists():
            return "CANCELLED", "cancelled"
        if ended is not None and ended.cause == "TERM" and self._has_ended:
            # The script tells TERM from the end of the walltime, where it knows that.
            or_else = "" if self._record.request.time else ", or its queue's walltime was over"
            return "CANCELLED", f"{seen.reason}: its script was told to end (TERM): it was deleted{or_else}"
        if ended is not None:
            return self._from_exit(ended, task)
        if verdict := self._verdict(task):
            return "FAILED", verdict.reason
        return self._without_trace(seen, task) if self._has_ended else ("UNKNOWN", seen.reason)

    def _without_trace(self, seen: JobState, task: int) -> tuple[State, str]:
        """The state of a task that has ended, of which neither the scheduler nor its script has kept how."""
        attempt = self._newest(task)
        if attempt is None:
            return (
                "CANCELLED",
                f"{seen.reason}, and it never began: it was deleted while it waited, or no queue took it",
            )
        if shows_life(self._folder, self._record, attempt):
            return "UNKNOWN", f"{seen.reason}, but a rank of it gave a sign of life in the last {ALIVE_S} s"
        error = cause_of_failure(self._folder, "", task)
        words = f"{seen.reason}, and its script left no exit record: it was killed, or its node died"
        return "FAILED", f"{words}; {error}" if error else words

    def _save_verdict(self, task: int, verdict: Verdict) -> bool:
        if not self._folder.is_mine:
            return False
        try:
            write_json(self._folder.verdict(task), verdict)
        except OSError:  # a full disk: the next call asks again
            return False
        return True


def shows_life(folder: JobFolder, record: JobRecord, attempt: Attempt) -> bool:
    """Whether a rank of that attempt may still run: it has not told its end, and its heartbeat is recent."""
    world = record.plan.layout.world_size
    begun = folder.records_of(range(attempt.task * world, (attempt.task + 1) * world))
    running = [one for one in begun if one.attempt == attempt.attempt and one.outcome == "running"]
    return any(_age(folder.heartbeat(one.rank)) < ALIVE_S for one in running)


def _how(ended: ExitRecord) -> str:
    """How the script ended, by its own record."""
    if ended.cause in ("exit", "requeue"):
        return f"the script ended with exit code {ended.exit_code}"
    return f"the script was ended by a signal ({ended.cause})"


def _is_of(attempt: Attempt, job_id: str | None) -> bool:
    return job_id is not None and is_submission(attempt.job_id, job_id)


def _age(path: Path) -> float:
    """Seconds since a file was written; without end if there is none."""
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return float("inf")
