"""The end of a job that runs no rows: whether every rank of a script, or of a program with run, ended well."""

from __future__ import annotations

import time

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobs.stage import read_ranks
from vllm_hpc.jobs.task_states import State, TaskStates
from vllm_hpc.spec.words import counted

# Seconds until everything that a compute node wrote is visible here: NFS clients cache attributes for up to 60 s
# (nfs(5), acregmax and acdirmax).
LATE_S = 60
# What ended an attempt whose ranks did not come to their end, by the cause in its record: its state and reason.
_TOLD_TO_END: dict[str, tuple[State, str]] = {
    "cancelled": ("CANCELLED", "cancelled"),
    "timeout": ("TIMEOUT", "the walltime was reached"),
}


def judge_ranks(
    folder: JobFolder, record: JobRecord, tasks: TaskStates, state: State, reason: str
) -> tuple[State, str]:
    """The state of such a job. Of one whose script ended with 0, every rank must say that it did, too."""
    if state != "COMPLETED":
        return state, reason
    current = max(tasks.current, default=0)
    outcomes = {rank.rank: rank.outcome for rank in read_ranks(folder, record) if rank.attempt == current}
    missing = [rank for rank in range(record.plan.layout.all_ranks) if outcomes.get(rank) != "ok"]
    if not missing:
        return "COMPLETED", "every rank ended with 0"
    ended = folder.exit_of(current)
    if ended and ended.cause in _TOLD_TO_END:  # and the launcher had nothing to say of ranks that it killed
        return _TOLD_TO_END[ended.cause]
    since = max(tasks.without_record_since, ended.ended_at if ended else 0.0)
    if time.time() - since < LATE_S and (record.plan.layout.nodes > 1 or ended is None):
        return "RUNNING", "it ended normally; waiting for its ranks' records to become visible here"
    said = f"is {outcomes[missing[0]]!r}" if missing[0] in outcomes else "left no record"
    more = f" ({counted(len(missing), 'rank')} in all)" if len(missing) > 1 else ""
    return "FAILED", f"the script ended normally, but rank {missing[0]} {said}{more}: see the logs"
