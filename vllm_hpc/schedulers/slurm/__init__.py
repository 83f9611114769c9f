"""Slurm: sbatch and scancel; states come from squeue, scontrol and sacct, asked in this order.

squeue knows jobs that wait or run, scontrol those that ended within MinJobAge (300 s by default), and sacct all of them
if accounting is on. A job that none of them knows is forgotten, not failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import read_json, write_json
from vllm_hpc.schedulers.client import Ask, ClientError, ClientMissingError, call_client
from vllm_hpc.schedulers.scheduler import JobState, Scheduler
from vllm_hpc.schedulers.slurm.environment import submit_environment
from vllm_hpc.schedulers.slurm.reasons import HELD_STATES, explain_reason
from vllm_hpc.schedulers.slurm.refusals import explain

# Slurm's job states (slurm.schedmd.com/job_state_codes.html) -> phase of a JobState. The page calls all after the first
# three lines flags; of the last line job_state_string (src/common/slurm_protocol_defs.c) prints none: the job has been
# put back into the queue, or waits for its nodes to boot.
PHASES = {
    "PENDING": "waiting", "RUNNING": "running", "SUSPENDED": "running", "COMPLETED": "completed", "FAILED": "failed",
    "BOOT_FAIL": "failed", "NODE_FAIL": "failed", "OUT_OF_MEMORY": "failed", "CANCELLED": "cancelled",
    "TIMEOUT": "timeout", "DEADLINE": "timeout", "PREEMPTED": "preempted",
    "COMPLETING": "running", "STOPPED": "running", "SIGNALING": "running", "STAGE_OUT": "running",
    "RESIZING": "running", "CONFIGURING": "waiting", "EXPEDITING": "waiting", "REQUEUED": "waiting",
    "REQUEUE_HOLD": "waiting", "REQUEUE_FED": "waiting", "SPECIAL_EXIT": "waiting", "RESV_DEL_HOLD": "waiting",
    "LAUNCH_FAILED": "waiting", "RECONFIG_FAIL": "waiting", "POWER_UP_NODE": "waiting", "UPDATE_DB": "waiting",
}  # fmt: skip
_NOT_SHOWN = frozenset({"LAUNCH_FAILED", "RECONFIG_FAIL", "POWER_UP_NODE", "UPDATE_DB"})
# Neither running nor ended as far as this cluster can know.
_REVOKED = "REVOKED: another cluster of the federation has taken the job: ask for its status there"
# sbatch --parsable prints a line ID, or ID;CLUSTER if it was given several clusters. A site's wrapper may leave out
# --parsable, and print banners, quotas and years. So sbatch's own sentence (src/sbatch/sbatch.c) counts most, then a
# line of its own, then "job ID"; of each the last. (\A: there is one match, and it is this one.)
_SUBMITTED = re.compile(
    r"""\A(?:
        (?s:.*)\bSubmitted[ ]batch[ ]job[ ](?=\d)
        | (?s:.*)^[ \t]*(?=\d+(?:;\S*)?[ \t]*$)
        | (?s:.*)\bjob[ \t_]*(?:id)?[ \t:=\#<]*(?=\d+\b(?![ \t]*(?:of\b|/|[.,]\d)))
    )(\d+)(?:(?:;|[ ]on[ ]cluster[ ])(?P<cluster>\w[\w.-]*))?""",
    re.ASCII | re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
# What a client prints if it answers but knows nothing, as opposed to not answering.
_NO_ANSWER = re.compile(r"invalid job id|accounting storage is disabled", re.IGNORECASE)
_IDS = re.compile(r"(?P<job>\d+)(?:_(?:\d+|\[(?P<listed>[^\]]*)\]))?")
_RANGE = re.compile(r"(?P<a>\d+)(?:-(?P<b>\d+)(?::(?P<c>\d+))?)?")


class Cluster(msgspec.Struct, frozen=True):
    """state/cluster.json: which of several clusters took the job. On the others its id is another job's."""

    name: str


def submit_argv(script: Path) -> list[str]:
    """sbatch, told to print only the id."""
    return ["sbatch", "--parsable", str(script)]


def remember(job: JobFolder, output: str) -> None:
    """Keep the cluster that sbatch printed with the id."""
    named = _SUBMITTED.search(output)
    if named and named["cluster"]:
        write_json(job.cluster, Cluster(named["cluster"]))


def query(job: JobFolder, job_id: str, tasks: Sequence[str] = (), ask: Ask = call_client) -> dict[str, JobState]:
    """What Slurm says of ``tasks``: ``ID`` by default, or ``ID_0``, ``ID_1`` ... of an array."""
    wanted = set(tasks or [job_id])
    on = _on_cluster(job)
    questions: list[tuple[list[str], Callable[[str], dict[str, JobState]]]] = [
        (["squeue", *on, "--noheader", "--array", f"--jobs={job_id}", "--format=%i|%T|%r|%S"], parse_squeue),
        (["scontrol", *on, "show", "job", "--oneliner", job_id], parse_scontrol),
        (
            ["sacct", *on, "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={job_id}"],
            parse_sacct,
        ),
    ]
    found: dict[str, JobState] = {}
    missing = JobState("forgotten", "Slurm does not know the job (any more)")
    try:
        for argv, parse in questions:
            # Earlier answers win. In an array, some tasks may wait while others ended long ago.
            found = parse(_answer(argv, ask)) | found
            if found.keys() >= wanted:
                break
    except ClientError as error:
        # No answer does not mean forgotten: the job may be running, or have ended in any way.
        missing = JobState("unknown", str(error))
    return dict.fromkeys(wanted, missing) | found


def _answer(argv: list[str], ask: Ask) -> str:
    """A client's answer; empty if it knows nothing. Raises ClientError if it does not answer."""
    try:
        return ask(argv)
    except ClientMissingError:
        if argv[0] != "sacct":
            raise
        return ""  # a site without accounting may not have it
    except ClientError as error:
        if _NO_ANSWER.search(str(error)):
            return ""
        raise


def parse_squeue(text: str) -> dict[str, JobState]:
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
        found |= dict.fromkeys(task_ids(ids), seen)
    return found


def _squeue_fields(line: str) -> tuple[str, str, str, str]:
    """Id, state, reason and expected start. The reason is any text, also one with ``|``."""
    ids, _, rest = line.strip().partition("|")
    state, _, rest = rest.partition("|")
    reason, bar, start = rest.rpartition("|")
    return (ids, state, reason, start) if bar else (ids, state, rest, "")


def parse_scontrol(text: str) -> dict[str, JobState]:
    """Lines of ``scontrol show job --oneliner``; tasks of an array that never started share one."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        fields = dict(re.findall(r"(?:^|\s)(JobId|ArrayJobId|ArrayTaskId|JobState|Reason)=(\S+)", line))
        if "JobState" in fields and "JobId" in fields:
            is_task = "ArrayJobId" in fields
            ids = f"{fields['ArrayJobId']}_[{fields.get('ArrayTaskId')}]" if is_task else fields["JobId"]
            found |= dict.fromkeys(task_ids(ids), _state(fields["JobState"], fields.get("Reason", "")))
    return found


def parse_sacct(text: str) -> dict[str, JobState]:
    """Lines of ``sacct --parsable2 --allocations --format=JobID,State``; 'CANCELLED by 1000' is one state."""
    found: dict[str, JobState] = {}
    for line in text.splitlines():
        ids, _, state = line.strip().partition("|")
        if state:
            found |= dict.fromkeys(task_ids(ids), _state(state.split()[0], ""))
    return found


def task_ids(text: str) -> list[str]:
    """The ids in Slurm's short form: ``12``, ``12_3`` or ``12_[0,3-5,8-12:2%4]``; none for anything else.

    A list that Slurm itself cut short (``12_[1,3,...]``) gives the ids that it still names.
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
            found += [f"{match['job']}_{task}" for task in range(first, last + 1, max(step, 1))]
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


def cancel(job: JobFolder, job_id: str) -> None:
    """Cancel the job in Slurm. Raises ClientError with Slurm's message."""
    call_client(["scancel", *_on_cluster(job), job_id])


def find(job: JobFolder, ask: Ask = call_client) -> list[str]:
    """The ids of this user's jobs, waiting or running, that were made of this job's script. Raises ClientError.

    A script of another path that is gone may have been a copy that a site's wrapper made: then the name decides.
    """
    own = ["--noheader", f"--user={os.getuid()}", "--format=%F|%o|%j"]
    lines = _answer(["squeue", *_on_cluster(job), *own], ask).splitlines()
    found = (line.strip().split("|", 1) for line in lines if _is_of(line, job))
    return list(dict.fromkeys(job_id for job_id, _ in found))


def _is_of(line: str, job: JobFolder) -> bool:
    """Whether a line ``ID|SCRIPT|NAME`` is of this job. Either text may contain bars."""
    _, _, rest = line.strip().partition("|")
    name = f"|{job.path.name}"
    is_named = rest.endswith(name)
    command = rest.removesuffix(name) if is_named else rest.rpartition("|")[0]
    script = job.path / SCHEDULER.script
    try:
        return rest.startswith(f"{script}|") or (Path(command).samefile(script) if command else is_named)
    except (OSError, ValueError):
        return is_named


def _on_cluster(job: JobFolder) -> list[str]:
    cluster = read_json(job.cluster, Cluster)
    return [f"--clusters={cluster.name}"] if cluster else []


SCHEDULER = Scheduler(
    name="slurm",
    template="slurm.sbatch.j2",
    script="script.sbatch",
    id_pattern=_SUBMITTED,
    submit_argv=submit_argv,
    cancel=cancel,
    query=query,
    environment=submit_environment,
    remember=remember,
    explain=explain,
    find=find,
    launchers=("torchrun", "srun"),
    client=("sbatch", re.compile("")),
)
