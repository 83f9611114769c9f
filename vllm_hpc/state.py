"""What state a job is in: from its folder first, and only then from the scheduler. UNKNOWN rather than a guess."""

from __future__ import annotations

import time
from typing import Literal

import msgspec

from vllm_hpc.jobfolder import ExitRecord, JobFolder, JobRecord, Progress, RankRecord, Submitted, read_json
from vllm_hpc.schedulers import get_scheduler

State = Literal["PENDING", "RUNNING", "COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "UNKNOWN"]
# After these nothing more happens by itself.
FINAL = frozenset({"COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT"})


class Rows(msgspec.Struct, frozen=True):
    """Counts of rows: in the input, with a result, with an error."""

    total: int
    done: int = 0
    failed: int = 0


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """What ``status --json`` prints. Output tokens per second, seconds left; None where unknown."""

    job: str
    job_id: str | None
    scheduler: str
    state: State
    reason: str
    rows: Rows
    tokens_per_s: float | None = None
    eta_s: float | None = None
    attempts: int = 0

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.state in FINAL


def read_status(folder: JobFolder) -> Status:
    """The state of a job now. Raises JobNotFoundError."""
    record = folder.job()
    submitted = read_json(folder.submitted, Submitted)
    attempt = folder.last_attempt()
    job_id = submitted.job_id if submitted else attempt.job_id if attempt else None
    # The state first, the counts after: rows that end in between belong to a job that still runs.
    state, reason = _decide(folder, record, job_id)
    progress = read_progress(folder, record)
    rows = Rows(record.rows, sum(p.done for p in progress), sum(p.failed for p in progress))
    if state == "COMPLETED":
        state, reason = _completeness(rows)
    rate, eta = _speed(progress, rows) if state == "RUNNING" else (_mean_rate(progress), None)
    return Status(
        job=str(folder.path),
        job_id=job_id,
        scheduler=record.scheduler,
        state=state,
        reason=reason,
        rows=rows,
        tokens_per_s=rate,
        eta_s=eta,
        attempts=max(1, folder.attempts()),
    )


def read_progress(folder: JobFolder, record: JobRecord) -> list[Progress]:
    """The counts of every replica that has begun."""
    found = (read_json(folder.progress(replica), Progress) for replica in range(record.plan.layout.dp))
    return [progress for progress in found if progress is not None]


def read_ranks(folder: JobFolder, record: JobRecord) -> list[RankRecord]:
    """The record of every rank that has begun, by rank."""
    found = (read_json(folder.rank_record(rank), RankRecord) for rank in range(record.plan.layout.world_size))
    return [rank for rank in found if rank is not None]


def first_error(folder: JobFolder) -> tuple[str, str] | None:
    """The error that the others followed from, as one line and as a traceback (may be empty); None where none is known.

    A rank that lost its peer reports that (an echo); the one that raised first, or that vanished without a word, is
    the cause.
    """
    record = folder.job()
    attempt = folder.last_attempt()
    ranks = [rank for rank in read_ranks(folder, record) if attempt is None or rank.attempt == attempt.attempt]
    errors = sorted((rank for rank in ranks if rank.error), key=lambda rank: rank.updated_at)
    # Before the attempt has ended, a rank without an outcome may well be alive.
    vanished = [rank for rank in ranks if rank.outcome == "running"] if _last_exit(folder) else []
    for rank in [r for r in errors if r.error and not r.error.is_echo] or vanished or errors:
        who = f"rank {rank.rank} on {rank.host}"
        if rank.error:
            return f"{who}: {rank.error.type}: {_one_line(rank.error.message)}", rank.error.traceback
        return f"{who} (pid {rank.pid}) vanished without a word: killed, or out of memory?", ""
    return None


def _decide(folder: JobFolder, record: JobRecord, job_id: str | None) -> tuple[State, str]:
    ended = _last_exit(folder)
    if ended is not None:
        return _from_exit(folder, ended)
    if job_id is None:
        return "UNKNOWN", "its submission was interrupted: the scheduler may or may not have it"
    sighting = get_scheduler(record.scheduler).look(folder, job_id)
    if sighting.phase == "gone":
        ended = _last_exit(folder)  # written between our two looks
        if ended is not None:
            return _from_exit(folder, ended)
        error = first_error(folder)
        return "FAILED", f"{sighting.reason}; {error[0]}" if error else sighting.reason
    if sighting.phase == "waiting":
        return "PENDING", sighting.reason
    if sighting.phase == "running":
        return "RUNNING", sighting.reason or _stage(folder, record)
    return "UNKNOWN", sighting.reason


def _last_exit(folder: JobFolder) -> ExitRecord | None:
    attempt = folder.last_attempt()
    return read_json(folder.exit_record(attempt.attempt if attempt else 1), ExitRecord)


def _from_exit(folder: JobFolder, ended: ExitRecord) -> tuple[State, str]:
    if ended.cause == "cancelled":
        return "CANCELLED", "cancelled"
    if ended.cause == "timeout":
        return "TIMEOUT", "the walltime was over"
    if ended.exit_code == 0:
        return "COMPLETED", ""
    if ended.cause == "exit":
        return "FAILED", _cause(folder, f"the script ended with exit code {ended.exit_code}")
    return "FAILED", _cause(folder, f"the script was ended by a signal ({ended.cause})")


def _completeness(rows: Rows) -> tuple[State, str]:
    missing = rows.total - rows.done - rows.failed
    if missing == rows.total:
        return "FAILED", "the script ended well, but no rank wrote a row: see the logs"
    parts = [f"{rows.failed} row(s) with errors"] * bool(rows.failed) + [f"{missing} row(s) missing"] * bool(missing)
    return ("PARTIAL", " and ".join(parts)) if parts else ("COMPLETED", "every row has a result")


def _cause(folder: JobFolder, fallback: str) -> str:
    error = first_error(folder)
    if error:
        return error[0]
    last = _last_line(folder)
    return f"{fallback}; the log ends with: {last}" if last else fallback


def _last_line(folder: JobFolder) -> str:
    try:
        with folder.scheduler_log.open("rb") as log:
            log.seek(max(0, folder.scheduler_log.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _stage(folder: JobFolder, record: JobRecord) -> str:
    """What a running job is at: starting, loading, or generating on so many replicas."""
    begun = len(read_progress(folder, record))
    if begun:
        return f"generating on {begun} of {record.plan.layout.dp} replica(s)"
    ranks = len(read_ranks(folder, record))
    return f"{ranks} of {record.plan.layout.world_size} rank(s) load the model" if ranks else "starting"


def _speed(progress: list[Progress], rows: Rows) -> tuple[float | None, float | None]:
    """Output tokens per second now, and seconds left, both summed over the replicas."""
    now = time.time()
    spans = [(p, now - p.started_at) for p in progress if p.started_at and now > p.started_at]
    if not spans:
        return None, None
    tokens = sum(p.completion_tokens / span for p, span in spans)
    finished = sum((p.done + p.failed) / span for p, span in spans)
    left = rows.total - rows.done - rows.failed
    return round(tokens, 1), round(left / finished, 1) if finished else None


def _mean_rate(progress: list[Progress]) -> float | None:
    spans = [p.updated_at - p.started_at for p in progress if p.updated_at > p.started_at > 0]
    tokens = sum(p.completion_tokens for p in progress)
    return round(tokens / max(spans), 1) if spans and max(spans) > 0 else None


def _one_line(text: str, limit: int = 400) -> str:
    joined = " ".join(text.split())
    return joined if len(joined) <= limit else joined[: limit - 1] + "…"
