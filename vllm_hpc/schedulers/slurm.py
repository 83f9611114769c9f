"""Slurm: sbatch, scancel, and what squeue, scontrol and sacct say, asked in this order.

squeue knows jobs that wait or run, scontrol those that ended within MinJobAge (300 s by default), sacct all of them
where accounting is on. A job that none of them knows is unknown, not failed.
"""

from __future__ import annotations

import re
from pathlib import Path

from vllm_hpc.jobfolder import JobFolder
from vllm_hpc.schedulers import ClientError, Scheduler, Sighting, call_client
from vllm_hpc.schedulers.slurm_environment import submit_environment

# Slurm's job states (man squeue, JOB STATE CODES) -> phase of a Sighting.
PHASES = {
    "PENDING": "waiting", "CONFIGURING": "waiting", "REQUEUED": "waiting", "REQUEUE_HOLD": "waiting",
    "REQUEUE_FED": "waiting", "SPECIAL_EXIT": "waiting", "RESV_DEL_HOLD": "waiting",
    "RUNNING": "running", "COMPLETING": "running", "SUSPENDED": "running", "STOPPED": "running",
    "SIGNALING": "running", "STAGE_OUT": "running", "RESIZING": "running",
    "COMPLETED": "gone", "FAILED": "failed", "BOOT_FAIL": "failed", "NODE_FAIL": "failed", "OUT_OF_MEMORY": "failed",
    "CANCELLED": "cancelled", "REVOKED": "cancelled", "TIMEOUT": "timeout", "DEADLINE": "timeout",
    "PREEMPTED": "preempted",
}  # fmt: skip
_NO_SUCH_JOB = re.compile(r"invalid job id", re.IGNORECASE)
_HINTS = [
    (r"invalid partition", "'sinfo' lists the partitions"),
    (r"invalid account|account/partition combination", "'sacctmgr show assoc user=$USER' lists your accounts"),
    (r"invalid qos", "'sacctmgr show qos' lists them"),
    (r"node configuration is not available|more processors", "'sinfo -o \"%P %D %c %m %G\"' shows what nodes have"),
    (r"invalid generic resource|gres", "the site may want another gpu_flag in the profile: gpus-per-node or gres"),
    (r"time limit", "ask for less --time"),
    (r"unable to contact|connection refused", "nothing was submitted; try again when the controller is up"),
]


def submit_argv(script: Path) -> list[str]:
    """sbatch, told to print nothing but the id."""
    return ["sbatch", "--parsable", str(script)]


def look(job: JobFolder, job_id: str) -> dict[str, Sighting]:
    """What Slurm says of a job, by task id: ``ID``, or ``ID_0``, ``ID_1`` ... of an array."""
    try:
        found = parse_squeue(_ask(["squeue", "--noheader", "--array", f"--jobs={job_id}", "--format=%i|%T|%r|%S"]))
        if job_id not in found:  # ended, or an array, of which some tasks may have
            found = {**parse_scontrol(_ask(["scontrol", "show", "job", "--oneliner", job_id])), **found}
        return found or _from_accounting(job_id)
    except ClientError as error:
        return {job_id: Sighting("unknown", str(error))}


def _from_accounting(job_id: str) -> dict[str, Sighting]:
    argv = ["sacct", "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={job_id}"]
    try:
        found = parse_sacct(call_client(argv))
    except ClientError:
        found = {}
    return found or {job_id: Sighting("forgotten", "Slurm does not know it (any more)")}


def _ask(argv: list[str]) -> str:
    """A client's answer, empty where it knows no such job. Raises ClientError where it cannot answer."""
    try:
        return call_client(argv)
    except ClientError as error:
        if _NO_SUCH_JOB.search(str(error)):
            return ""
        raise


def parse_squeue(text: str) -> dict[str, Sighting]:
    """Lines of ``squeue --format=%i|%T|%r|%S``, with the reason and the expected start of a job that waits."""
    found = {}
    for line in text.splitlines():
        task, state, reason, start = (*line.strip().split("|"), "", "", "")[:4]
        phase = PHASES.get(state, "unknown")
        words = ""
        if phase == "waiting":
            words = f"waits: {reason}" if reason not in ("", "None") else "waits"
            words += f", expected to start {start}" if start not in ("", "N/A") else ""
        elif phase == "unknown":
            words = f"Slurm calls it {state}"
        found[task] = Sighting(phase, words)
    return found


def parse_scontrol(text: str) -> dict[str, Sighting]:
    """Lines of ``scontrol show job --oneliner``."""
    found = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(JobId|ArrayJobId|ArrayTaskId|JobState|Reason)=(\S+)", line))
        if "JobState" not in fields:
            continue
        # A pending array stands in one line, "ArrayTaskId=2-7"; squeue --array has it task by task.
        is_task = "ArrayJobId" in fields
        task = f"{fields['ArrayJobId']}_{fields.get('ArrayTaskId')}" if is_task else fields["JobId"]
        if not is_task or fields.get("ArrayTaskId", "").isdecimal():
            found[task] = _ended(fields["JobState"], fields.get("Reason", ""))
    return found


def parse_sacct(text: str) -> dict[str, Sighting]:
    """Lines of ``sacct --parsable2 --allocations --format=JobID,State``; 'CANCELLED by 1000' is one state."""
    found = {}
    for line in text.splitlines():
        task, _, state = line.strip().partition("|")
        if state:
            found[task] = _ended(state.split()[0], "")
    return found


def _ended(state: str, reason: str) -> Sighting:
    words = f"Slurm says {state}" + (f" ({reason})" if reason not in ("", "None") else "")
    return Sighting(PHASES.get(state, "unknown"), words)


def cancel(job: JobFolder, job_id: str) -> None:
    """Cancel the job in Slurm. Raises ClientError with its words."""
    call_client(["scancel", job_id])


def explain(words: str) -> str:
    """What to do about sbatch's refusal, empty where nothing is known."""
    return next((hint for pattern, hint in _HINTS if re.search(pattern, words, re.IGNORECASE)), "")


SCHEDULER = Scheduler(
    name="slurm",
    template="slurm.sbatch.j2",
    script="script.sbatch",
    # --parsable prints ID, or ID;CLUSTER in a federation (man sbatch).
    id_pattern=re.compile(r"^(\d+)(?:;.*)?$", re.MULTILINE),
    submit_argv=submit_argv,
    cancel=cancel,
    look=look,
    environment=submit_environment,
    explain=explain,
)
