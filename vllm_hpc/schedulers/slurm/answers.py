"""What squeue, scontrol and sacct print, as states of jobs and of an array's tasks."""

from __future__ import annotations

import re

from vllm_hpc.schedulers.scheduler import JobState
from vllm_hpc.schedulers.slurm.reasons import HELD_STATES, explain_reason

# Slurm's job states (slurm.schedmd.com/job_state_codes.html) -> phase of a JobState. The page calls all after the first
# three lines flags; of the last line job_state_string (src/common/slurm_protocol_defs.c) prints none: the job has been
# put back into the queue, or waits for its nodes to boot.
PHASES = {
    "PENDING": "waiting", "RUNNING": "running", "SUSPENDED": "running", "COMPLETED": "completed", "FAILED": "failed",
    "BOOT_FAIL": "node_failed", "NODE_FAIL": "node_failed", "OUT_OF_MEMORY": "failed", "CANCELLED": "cancelled",
    "TIMEOUT": "timeout", "DEADLINE": "timeout", "PREEMPTED": "preempted",
    "COMPLETING": "running", "STOPPED": "running", "SIGNALING": "running", "STAGE_OUT": "running",
    "RESIZING": "running", "CONFIGURING": "waiting", "EXPEDITING": "waiting", "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting", "REQUEUE_FED": "waiting", "SPECIAL_EXIT": "waiting", "RESV_DEL_HOLD": "waiting",
    "LAUNCH_FAILED": "waiting", "RECONFIG_FAIL": "waiting", "POWER_UP_NODE": "waiting", "UPDATE_DB": "waiting",
}  # fmt: skip
_NOT_SHOWN = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB"})
# Neither running nor ended as far as this cluster can know.
_REVOKED = "REVOKED: another cluster of the federation has taken the job: ask for its status there"
_IDS = re.compile(r"(?P<job>\d+)(?:_(?:\d+|\[(?P<listed>[^\]]*)\]))?")
# The largest MaxArraySize that Slurm takes (man slurm.conf).
MOST_TASKS = 4_000_001
_RANGE = re.compile(r"(?P<a>\d{1,18})(?:-(?P<b>\d{1,18})(?::(?P<c>\d{1,18}))?)?")


def parse_squeue(text: str, most: int = MOST_TASKS) -> dict[str, JobState]:
    """Lines of ``squeue --format=%i|%T|%r|%S``, with the reason and expected start of waiting jobs."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        ids, state, reason, start = _squeue_fields(line)
        seen = _state(state, reason)
        if seen.phase == "waiting":
            reason = state if reason in ("", "None") and state in HELD_STATES else reason
            # A task's own id; an array's, if it is several tasks.
            advised = explain_reason(reason, ids.partition("_[")[0])
            words = f"waits: {advised}" if reason not in ("", "None") else "waits"
            words += f", expected to start {start}" if start not in ("", "N/A") else ""
            seen = JobState("waiting", words)
        elif seen.phase == "running":
            seen = JobState("running")
        found |= dict.fromkeys(task_ids(ids, most), seen)
    return found


def _squeue_fields(line: str) -> tuple[str, str, str, str]:
    """Id, state, reason and expected start. The reason is any text, also one with ``|``."""
    ids, _, rest = line.strip().partition("|")
    state, _, rest = rest.partition("|")
    reason, bar, start = rest.rpartition("|")
    return (ids, state, reason, start) if bar else (ids, state, rest, "")


def parse_scontrol(text: str, most: int = MOST_TASKS) -> dict[str, JobState]:
    """Lines of ``scontrol show job --oneliner``; tasks of an array that never started share one."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^|\s)(JobId|ArrayJobId|ArrayTaskId|JobState|Reason)=(\S+)", line))
        if "JobState" in fields and "JobId" in fields:
            is_task = "ArrayJobId" in fields
            ids = f"{fields['ArrayJobId']}_[{fields.get('ArrayTaskId')}]" if is_task else fields["JobId"]
            found |= dict.fromkeys(task_ids(ids, most), _state(fields["JobState"], fields.get("Reason", "")))
    return found


def parse_sacct(text: str, most: int = MOST_TASKS) -> dict[str, JobState]:
    """Lines of ``sacct --parsable2 --allocations --format=JobID,State``; 'CANCELLED by 1000' is one state.

    It is asked about what the controller no longer has: a node's failure is then the job's end.
    """
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        ids, _, state = line.strip().partition("|")
        if state:
            seen = _state(state.split()[0], "")
            phase = "failed" if seen.phase == "node_failed" else seen.phase
            found |= dict.fromkeys(task_ids(ids, most), JobState(phase, seen.reason))
    return found


def task_ids(text: str, most: int = MOST_TASKS) -> list[str]:
    """The ids in Slurm's short form: ``12``, ``12_3`` or ``12_[0,3-5,8-12:2%4]``; none for anything else.

    A list that Slurm itself cut short (``12_[1,3,...]``) gives the ids that it still names. ``most``: the number of
    tasks that were asked for, from 0; others are left out.
    """
    match = _IDS.fullmatch(text)
    if match is None or match["listed"] is None:
        return [text] if match else []
    found: list[str] = []
    for part in match["listed"].partition("%")[0].split(","):
        bounds = _RANGE.fullmatch(part)
        if bounds:
            first, last, step = (
                int(bounds[name] or default) for name, default in (("a", 0), ("b", bounds["a"]), ("c", 1))
            )
            found += [f"{match['job']}_{task}" for task in range(first, min(last + 1, most), max(step, 1))]
    return found


def _state(state: str, reason: str) -> JobState:
    said = _REVOKED if state == "REVOKED" else state
    words = f"Slurm says {said}" + (f" ({reason})" if reason not in ("", "None") else "")
    return JobState(_phase(state), words)


def _phase(state: str) -> str:
    """The phase of a state; of a base state with flags (PENDING,REQUEUED), that of the flag which squeue would show."""
    base, *flags = state.split(",")
    shown = [flag for flag in flags if flag not in _NOT_SHOWN]
    return PHASES.get(shown[0] if shown else base, "unknown")
