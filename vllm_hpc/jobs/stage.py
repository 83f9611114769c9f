"""What a running job is doing, in words."""

from __future__ import annotations

import time

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Again, CannotSubmit, ExitRecord, JobRecord, RankRecord
from vllm_hpc.jobs.progress import read_progress
from vllm_hpc.spec.words import counted


def read_ranks(folder: JobFolder, record: JobRecord) -> list[RankRecord]:
    """The records of all ranks that have started, by rank."""
    return folder.records_of(range(record.plan.layout.all_ranks))


def is_drained(folder: JobFolder, current: set[int]) -> bool:
    """Whether a user, or the walltime of a task's current attempt, asked the ranks to stop."""
    return folder.drain.exists() or any(folder.drain_attempt(attempt).exists() for attempt in current)


def ending(folder: JobFolder, ended: ExitRecord) -> str:
    """What follows an attempt whose script has recorded its end, while its scheduler still shows the job."""
    if ended.cause != "requeue":
        return "ending"
    again = folder.read(folder.again, Again)
    if again is None or again.attempt != ended.attempt:
        return f"attempt {ended.attempt} has ended, the next one follows"
    pause = again.next_at - time.time()
    when = f", next try in {pause:.0f} s" if pause > 0 else ""
    return f"attempt {ended.attempt} has ended, submitting again: {again.reason}{when}"


def stage(folder: JobFolder, record: JobRecord, current: set[int]) -> str:
    """What the current attempts of a running job are doing: starting, loading, generating on replicas, draining."""
    layout = record.plan.layout
    again = f"attempt {max(current)}: " if current and max(current) > 1 and not layout.is_array else ""
    return again + _work(folder, record, current) + _cannot_submit(folder, record, current)


def _cannot_submit(folder: JobFolder, record: JobRecord, current: set[int]) -> str:
    """What to know of a running job if its host cannot submit the next attempt."""
    found = read_json(folder.cannot_submit, CannotSubmit)
    if found is None or found.attempt not in current or not record.request.max_requeues:
        return ""
    return f"; {found.host} cannot submit the next attempt ({found.reason}): if there is one, 'vllm-hpc status' does"


def _work(folder: JobFolder, record: JobRecord, current: set[int]) -> str:
    layout = record.plan.layout
    if record.program is not None and not record.has_rows:
        ranks = sum(rank.attempt in current for rank in read_ranks(folder, record))
        of_all = f"{ranks} of {counted(layout.all_ranks, 'rank')}"
        return f"{of_all} {'runs' if ranks == 1 else 'run'} the {record.program.title}" if ranks else "starting"
    if is_drained(folder, current):
        return "draining: rows in flight are finished, no more are admitted"
    begun = sum(replica.attempt in current for replica in read_progress(folder, record))
    if begun:
        return f"generating on {begun} of {counted(layout.lanes, layout.unit)}"
    ranks = sum(rank.attempt in current for rank in read_ranks(folder, record))
    are_loading = "is loading" if ranks == 1 else "are loading"
    return f"{ranks} of {counted(layout.all_ranks, 'rank')} {are_loading} the model" if ranks else "starting"
