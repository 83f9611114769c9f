"""When each attempt did what: queue, launch, import, load, warm-up, generate, drain, and at the end collect."""

from __future__ import annotations

from collections.abc import Iterator

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, JobRecord, Progress, RankRecord, Submitted
from vllm_hpc.jobs.summary import Summary
from vllm_hpc.report.facts import AttemptFacts, Part

# In the order in which they follow each other, as Run.seconds and the rank records call them.
_PARTS = ("launch", "import", "load", "warm_up", "generate", "drain")
# Of more attempts the last are shown: a page of thousands of bars shows nothing.
MOST_ATTEMPTS = 200
# No clock says a later time (the year 5138), and no part of an attempt takes longer: a record may say anything.
_LAST_MOMENT, _LONGEST_S = 1e11, 1e9


def is_moment(at: float) -> bool:
    """Whether it may be a time of a clock, in Unix seconds."""
    return 0 <= at < _LAST_MOMENT


def made_at(record: JobRecord) -> float:
    """When the job was made; 0 if its record says a time that no clock has."""
    return record.created_at if is_moment(record.created_at) else 0.0


def read_attempts(
    folder: JobFolder, record: JobRecord, progress: list[Progress], ranks: list[RankRecord], now: float
) -> tuple[AttemptFacts, ...]:
    """The last attempts with their parts, oldest first; ``now`` is where an attempt that runs ends."""
    attempts = [one for one in folder.attempts() if is_moment(one.started_at)]
    begun = made_at(record)
    ends = {one.attempt: folder.exit_of(one.attempt) for one in attempts[-2 * MOST_ATTEMPTS :]}
    submitted = read_json(folder.submitted, Submitted)
    known = [begun, *([submitted.submitted_at] if submitted else [])]
    before: dict[int, float | None] = {}
    found = []
    for one in attempts:
        ended = ends.get(one.attempt)
        ended = ended if ended and is_moment(ended.ended_at) else None
        since = [*known, *filter(None, [before.get(one.task)])]
        queued = max((moment for moment in since if moment <= one.started_at), default=one.started_at)
        # An attempt that left no record ended somewhere in between.
        is_known = one.task not in before or before[one.task] is not None or queued != begun
        end = ended.ended_at if ended else now if one is _last_of(attempts, one.task) else None
        parts = [Part("queue", queued, one.started_at)] if is_known and queued < one.started_at else []
        parts += _work(one, progress, ranks, end, ended is not None)
        before[one.task] = end
        found.append(_facts(one, ended, parts, begun))
    return tuple(_with_collect(found[-MOST_ATTEMPTS:], read_json(folder.summary, Summary)))


def _last_of(attempts: list[Attempt], task: int) -> Attempt:
    return next(one for one in reversed(attempts) if one.task == task)


def _facts(one: Attempt, ended: ExitRecord | None, parts: list[Part], begun: float) -> AttemptFacts:
    shifted = tuple(Part(part.name, round(part.start - begun, 3), round(part.end - begun, 3)) for part in parts)
    return AttemptFacts(
        attempt=one.attempt,
        task=one.task,
        job_id=one.job_id,
        host=one.host,
        cause=ended.cause if ended else None,
        exit_code=ended.exit_code if ended else None,
        parts=shifted,
    )


def _work(
    one: Attempt, progress: list[Progress], ranks: list[RankRecord], end: float | None, has_ended: bool
) -> list[Part]:
    """From the script's start to its end, by the replica that took longest, or the rank."""
    parts, at = [], one.started_at
    for name, seconds in _timings(one, progress, ranks):
        stop = min(at + seconds, end) if end is not None else at + seconds
        if stop > at:
            parts.append(Part(name, at, stop))
            at = stop
    if end is None or end <= at:
        return parts
    if parts and not has_ended:  # what it does now is counted a second later
        return [*parts[:-1], Part(parts[-1].name, parts[-1].start, end)]
    is_done = bool(parts) and parts[-1].name in ("generate", "drain")
    return [*parts, Part("ending" if is_done else "other", at, end)]


def _timings(one: Attempt, progress: list[Progress], ranks: list[RankRecord]) -> Iterator[tuple[str, float]]:
    runs = [run.seconds for replica in progress for run in replica.runs if run.attempt == one.attempt]
    seconds = runs or [rank.timings for rank in ranks if rank.attempt == one.attempt]
    longest = max(seconds, key=lambda given: sum(given.get(name, 0.0) for name in _PARTS), default={})
    for name in _PARTS:
        yield name.replace("_", "-"), min(_LONGEST_S, max(0.0, longest.get(name, 0.0)))


def _with_collect(found: list[AttemptFacts], summary: Summary | None) -> Iterator[AttemptFacts]:
    """The last one with the time that the collect took: when that was is not known, only that it came after."""
    seconds = min(_LONGEST_S, summary.timings.get("collect", 0.0)) if summary else 0.0
    for number, one in enumerate(found, start=1):
        last = one.parts[-1].end if one.parts else None
        if number == len(found) and seconds > 0 and one.cause is not None and last is not None:
            yield AttemptFacts(
                attempt=one.attempt, task=one.task, job_id=one.job_id, host=one.host, cause=one.cause,
                exit_code=one.exit_code, parts=(*one.parts, Part("collect", last, last + seconds)),
            )  # fmt: skip
        else:
            yield one
