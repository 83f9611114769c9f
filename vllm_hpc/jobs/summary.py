"""summary.json: what a job produced, how fast, and how its time was spent."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Attempt, JobRecord, Progress, RankRecord, Run, Submitted
from vllm_hpc.jobfolder.shards import Tally
from vllm_hpc.jobs.artefacts import Artefact, list_artefacts
from vllm_hpc.jobs.in_words import describe_summary
from vllm_hpc.jobs.progress import read_progress
from vllm_hpc.jobs.stage import read_ranks
from vllm_hpc.jobs.status import read_status
from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.visible import in_utf8

# The parts of an attempt, as Run.seconds and the rank records call them.
_PARTS = ("launch", "import", "load", "warm_up", "generate", "drain")


class RankEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How a rank ended: ``error`` in one line, None if it had none."""

    rank: int
    host: str
    attempt: int
    outcome: str
    error: str | None = None

    @classmethod
    def of(cls, rank: RankRecord) -> RankEnd:
        """The end in a rank's record."""
        error = None if rank.error is None else " ".join(f"{rank.error.type}: {rank.error.message}".split())[:400]
        return cls(rank=rank.rank, host=rank.host, attempt=rank.attempt, outcome=rank.outcome, error=error)


class Summary(Drawn, msgspec.Struct, frozen=True, kw_only=True):
    """summary.json. ``seconds`` from the first submission to the last end; rates are over ``timings["generate"]``.

    ``timings``: seconds, summed over the attempts, of the slowest replica or array task, since these run in parallel.
    ``occupancy``: mean sequences in flight / max_num_seqs. ``idle``: share of the time in which rows were in flight
    but the engine took no step. ``state`` and ``reason`` as ``vllm-hpc status`` gave them when the rows were collected.
    ``ignored``: lines of the shards that are no rows of this job, by what they are. ``uuid`` and ``job``, its folder,
    say of which job this is; the uuid of one that an earlier version submitted is empty. ``artefacts``: what its
    program has left. ``ranks``: how they ended, of a job that runs no rows, which has no ``outputs`` either.
    """

    job: str
    uuid: str
    rows: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    tokens_per_s: float | None
    prompt_tokens_per_s: float | None = None
    occupancy: float | None = None
    idle: float | None = None
    attempts: int = 1
    timings: dict[str, float]
    outputs: str
    state: str = "UNKNOWN"
    reason: str = ""
    rehearsal: bool = False
    ignored: dict[str, int] = {}
    ranks: list[RankEnd] = []
    artefacts: list[Artefact] = []

    def __repr__(self) -> str:
        return f"Summary {describe_summary(self)}"


def summarise_ranks(folder: JobFolder, record: JobRecord) -> Summary:
    """Summarise a job that runs no rows."""
    whole = summarise(folder, record, Tally(), 0.0)
    ranks = [RankEnd.of(rank) for rank in read_ranks(folder, record)]
    return msgspec.structs.replace(
        whole,
        rows=dict.fromkeys(whole.rows, 0),
        tokens_per_s=None,
        prompt_tokens_per_s=None,
        outputs="",
        ranks=ranks,
    )


def summarise(folder: JobFolder, record: JobRecord, tally: Tally, collecting: float) -> Summary:
    """Summarise a job whose rows were collected in ``collecting`` seconds."""
    submitted = read_json(folder.submitted, Submitted)
    attempts = folder.attempts()
    ends = {attempt.attempt: ended.ended_at for attempt in attempts if (ended := folder.exit_of(attempt.attempt))}
    progress = read_progress(folder, record)
    runs = [run for replica in progress for run in replica.runs]
    timings = {"queue": _queued(attempts, ends, submitted)} if attempts and submitted else {}
    parts = _parts(progress, attempts) if runs else _parts_of_ranks(folder, record, attempts)
    timings |= {name.replace("_", "-"): round(seconds, 3) for name, seconds in parts.items()}
    timings["collect"] = round(collecting, 3)
    missing = record.rows - tally.done - tally.failed
    status = read_status(folder)
    return Summary(
        job=in_utf8(str(folder.path)),
        uuid=record.uuid,
        rows={"total": record.rows, "done": tally.done, "failed": tally.failed, "missing": missing},
        prompt_tokens=tally.prompt_tokens,
        completion_tokens=tally.completion_tokens,
        seconds=round(max(0.0, max(ends.values()) - record.created_at), 3) if ends else None,
        tokens_per_s=_ratio(tally.completion_tokens, timings["generate"], 1),
        prompt_tokens_per_s=_ratio(tally.prompt_tokens, timings["generate"], 1),
        occupancy=_ratio(sum(run.occupancy * _stepping(run) for run in runs), sum(map(_stepping, runs)), 4),
        idle=_ratio(sum(run.seconds.get("idle", 0.0) for run in runs), sum(map(_stepping, runs)), 4),
        attempts=status.attempts,
        timings=timings,
        outputs=in_utf8(str(folder.outputs)),
        state=status.state,
        reason=status.reason,
        rehearsal=record.request.rehearse,
        artefacts=list_artefacts(folder) if record.program else [],
    )


def _parts(progress: list[Progress], attempts: list[Attempt]) -> dict[str, float]:
    """Seconds of each part, summed over the attempts of a task; replicas and tasks run in parallel."""
    tasks = {attempt.attempt: attempt.task for attempt in attempts}
    numbers = {run.attempt for replica in progress for run in replica.runs}
    found = {}
    for name in _PARTS:
        by_task: dict[int, float] = {}
        for number in numbers:
            runs = [run for replica in progress for run in replica.runs if run.attempt == number]
            task = tasks.get(number, 0)
            by_task[task] = by_task.get(task, 0.0) + _most(run.seconds.get(name, 0.0) for run in runs)
        found[name] = _most(by_task.values())
    return found


def _parts_of_ranks(folder: JobFolder, record: JobRecord, attempts: list[Attempt]) -> dict[str, float]:
    """The same if the replicas recorded no timings: from the slowest rank of the last attempt."""
    latest = {attempt.task: attempt.attempt for attempt in attempts}
    ranks = [rank for rank in read_ranks(folder, record) if rank.attempt in latest.values()]
    return {name: _most(rank.timings.get(name, 0.0) for rank in ranks) for name in _PARTS}


def _queued(attempts: list[Attempt], ends: dict[int, float], submitted: Submitted) -> float:
    """Seconds from the submission, or from the previous attempt's end, to each start; the longest of all tasks."""
    by_task: dict[int, float] = {}
    before: dict[int, int] = {}
    for attempt in attempts:
        since = [submitted.submitted_at, ends.get(before.get(attempt.task, 0), 0.0)]
        known = [moment for moment in since if 0 < moment <= attempt.started_at]
        # Unknown if the previous attempt left no exit record, or ran before the job was submitted again.
        is_known = bool(known) and (attempt.task not in before or before[attempt.task] in ends)
        waited = attempt.started_at - max(known) if is_known else 0.0
        by_task[attempt.task] = by_task.get(attempt.task, 0.0) + waited
        before[attempt.task] = attempt.attempt
    return round(_most(by_task.values()), 3)


def _stepping(run: Run) -> float:
    """Seconds in which the engine should have been stepping."""
    return run.seconds.get("generate", 0.0) + run.seconds.get("drain", 0.0)


def _ratio(part: float, whole: float, digits: int) -> float | None:
    return round(part / whole, digits) if whole else None


def _most(seconds: Iterable[float]) -> float:
    return max(seconds, default=0.0)
