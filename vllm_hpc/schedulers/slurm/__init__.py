"""Slurm: sbatch and scancel; states come from squeue, scontrol and sacct, asked in this order.

squeue knows jobs that wait or run, scontrol those that ended within MinJobAge (300 s by default), and sacct all of them
if accounting is on. A job that none of them knows is forgotten, not failed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.schedulers.client import Ask, ClientError, ClientMissingError, call_client
from vllm_hpc.schedulers.scheduler import JobState, Question, Scheduler
from vllm_hpc.schedulers.slurm.answers import parse_sacct, parse_scontrol, parse_squeue
from vllm_hpc.schedulers.slurm.environment import submit_environment
from vllm_hpc.schedulers.slurm.refusals import explain

if TYPE_CHECKING:
    from vllm_hpc.schedulers.inventory import Inventory

# sbatch --parsable prints a line ID, or ID;CLUSTER if it was given several clusters. A site's wrapper may leave out
# --parsable, and print banners, quotas and years. So sbatch's own sentence (src/sbatch/sbatch.c) counts most, then a
# line of its own, then "job ID"; of each the last. (\A: there is one match, and it is this one.)
_SUBMITTED = re.compile(
    r"""\A(?:
        (?s:.*)\bSubmitted[ ]batch[ ]job[ ](?=\d)
        | (?s:.*)^[ \t]*(?=\d{1,20}(?:;\S*)?[ \t]*$)
        | (?s:.*)\bjob[ \t_]*(?:id)?[ \t:=\#<]*(?=\d+\b(?![ \t]*(?:of\b|/|[.,]\d)))
    )(\d{1,20})(?!\d)(?:(?:;|[ ]on[ ]cluster[ ])(?P<cluster>\w[\w.-]*))?""",
    re.ASCII | re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)
# What a client prints if it answers but knows nothing, as opposed to not answering.
_NO_ANSWER = re.compile(r"invalid job id|accounting storage is disabled", re.IGNORECASE)
_FORGOTTEN = JobState("forgotten", "Slurm does not know the job (any more)")
# How many jobs are asked for in one call.
_AT_ONCE = 200


class Cluster(msgspec.Struct, frozen=True):
    """state/cluster.json: which of several clusters took the job. On the others its id is another job's."""

    name: str
    uuid: str = ""


def submit_argv(script: Path) -> list[str]:
    """sbatch, told to print only the id."""
    return ["sbatch", "--parsable", str(script)]


def remember(job: JobFolder, output: str) -> None:
    """Keep the cluster that sbatch printed with the id."""
    named = _SUBMITTED.search(output)
    if named and named["cluster"]:
        write_json(job.cluster, Cluster(named["cluster"], job.uuid))


def _squeue(on: Sequence[str], ids: str, *more: str) -> list[str]:
    return ["squeue", *on, "--noheader", *more, "--array", f"--jobs={ids}", "--format=%i|%T|%r|%S"]


def _sacct(on: Sequence[str], ids: str) -> list[str]:
    return ["sacct", *on, "--noheader", "--parsable2", "--allocations", "--format=JobID,State", f"--jobs={ids}"]


def query(job: JobFolder, job_id: str, tasks: Sequence[str] = (), ask: Ask = call_client) -> dict[str, JobState]:
    """What Slurm says of ``tasks``: ``ID`` by default, or ``ID_0``, ``ID_1`` ... of an array."""
    wanted = set(tasks or [job_id])
    on = _on_cluster(job)
    most = _most(wanted)
    questions: list[tuple[list[str], Callable[[str, int], dict[str, JobState]]]] = [
        (_squeue(on, job_id), parse_squeue),
        (["scontrol", *on, "--oneliner", "--", "show", "job", job_id], parse_scontrol),
        (_sacct(on, job_id), parse_sacct),
    ]
    found: dict[str, JobState] = {}
    missing = _FORGOTTEN
    try:
        for argv, parse in questions:
            # Earlier answers win. In an array, some tasks may wait while others ended long ago.
            found = parse(_answer(argv, ask), most) | found
            if found.keys() >= wanted:
                break
    except ClientError as error:
        # No answer does not mean forgotten: the job may be running, or have ended in any way.
        missing = JobState("unknown", str(error))
    return dict.fromkeys(wanted, missing) | found


def query_all(questions: Sequence[Question], ask: Ask = call_client) -> list[dict[str, JobState]]:
    """What Slurm says of many jobs, by at most two calls for each cluster and for every two hundred jobs."""
    on_clusters: dict[tuple[str, ...], list[int]] = {}
    for index, question in enumerate(questions):
        on_clusters.setdefault(tuple(_on_cluster(question.job)), []).append(index)
    found: dict[int, dict[str, JobState]] = {}
    for on, indices in on_clusters.items():
        for first in range(0, len(indices), _AT_ONCE):
            some = indices[first : first + _AT_ONCE]
            found |= zip(some, _query_some([questions[index] for index in some], on, ask), strict=True)
    return [found[index] for index in range(len(questions))]


def _query_some(questions: Sequence[Question], on: tuple[str, ...], ask: Ask) -> list[dict[str, JobState]]:
    if len(questions) == 1:
        return [query(one.job, one.job_id, one.tasks, ask) for one in questions]
    most = _most(task for question in questions for task in question.tasks)
    found: dict[str, JobState] = {}
    missing = _FORGOTTEN
    try:
        # With --states=all squeue also prints what scontrol knows. Of several ids it skips those that it does not know.
        found = parse_squeue(ask(_squeue(on, _join(questions), "--states=all")), most)
        left = [question for question in questions if not found.keys() >= set(question.tasks)]
        if left:
            found = parse_sacct(_answer(_sacct(on, _join(left)), ask), most) | found
    except ClientError as error:
        if _NO_ANSWER.search(str(error)):  # because of one id: the others would pass for forgotten
            return [query(one.job, one.job_id, one.tasks, ask) for one in questions]
        missing = JobState("unknown", str(error))
    return [{task: found.get(task, missing) for task in question.tasks} for question in questions]


def _most(ids: Iterable[str]) -> int:
    """How many tasks, from 0, these are of: an answer may name any number of others."""
    return 1 + max((int(task) for _, _, task in (one.partition("_") for one in ids) if task), default=0)


def _join(questions: Sequence[Question]) -> str:
    return ",".join(dict.fromkeys(question.job_id for question in questions))


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


def cancel(job: JobFolder, job_id: str) -> None:
    """Cancel the job in Slurm. Raises ClientError with Slurm's message."""
    call_client(["scancel", *_on_cluster(job), "--", job_id])


def find_job(job: JobFolder, known: Sequence[str], ask: Ask = call_client) -> str | None:
    """The newest of this user's jobs, waiting or running, that was made of this job's script and has no known id.

    A script of another path that is gone may have been a copy that a site's wrapper made: then the name decides. Raises
    ClientError.
    """
    own = ["--noheader", f"--user={os.getuid()}", "--format=%F|%o|%j"]
    lines = _answer(["squeue", *_on_cluster(job), *own], ask).splitlines()
    ids = {line.partition("|")[0].strip() for line in lines if _is_of(line, job)} - set(known)
    return max(ids, key=lambda job_id: (len(job_id), job_id), default=None)


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
    cluster = job.read(job.cluster, Cluster)
    return [f"--clusters={cluster.name}"] if cluster else []


def take_inventory(ask: Ask) -> Inventory:
    """What the cluster has, as its clients tell (inventory.py); imported when asked for: a status never is."""
    from vllm_hpc.schedulers.slurm.inventory import take_inventory as take

    return take(ask)


SCHEDULER = Scheduler(
    name="slurm",
    template="slurm.sbatch.j2",
    script="script.sbatch",
    id_pattern=_SUBMITTED,
    id_alone=re.compile(r"\d{1,20}", re.ASCII),
    submit_argv=submit_argv,
    cancel=cancel,
    query=query,
    query_all=query_all,
    environment=submit_environment,
    remember=remember,
    explain=explain,
    find_job=find_job,
    take_inventory=take_inventory,
    launchers=("torchrun", "srun"),
    client=("sbatch", re.compile("")),
    cancel_client="scancel",
)
