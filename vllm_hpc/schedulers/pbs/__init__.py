"""PBS (OpenPBS, PBS Professional): qsub, qdel and qstat.

``qstat -x`` knows a job for as long as the server keeps its history, and a fresh server keeps none. A job that it does
not know is forgotten: it has ended, and the job folder says how. One that it does not describe in full is unknown. All
of this was seen on OpenPBS 23.06.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import (
    Ask,
    ClientError,
    ClientMissingError,
    ClientTimeoutError,
    call_client,
    clean_environment,
    plain,
)
from vllm_hpc.schedulers.pbs import many
from vllm_hpc.schedulers.pbs.from_inside import check_host, find_job, is_lasting, refuses_host
from vllm_hpc.schedulers.pbs.nodes import node_part
from vllm_hpc.schedulers.pbs.qstat import (
    ENDED_JOB,
    FORGOTTEN,
    UNKNOWN_JOB,
    describe,
    is_json,
    parse_plain,
    parse_qstat,
)
from vllm_hpc.schedulers.pbs.reasons import explain
from vllm_hpc.schedulers.pbs.request import check_folder, check_request
from vllm_hpc.schedulers.scheduler import JobState, Question, Scheduler

if TYPE_CHECKING:
    from vllm_hpc.schedulers.inventory import Inventory

# 12.server, and 12[].server for an array; a server may have a port (12.server:15001), and a name that begins with a
# number (12.1.pbs). 2.50 and 2.5GB are no ids.
_ID = r"\d+(?:\[\])?\.(?:\d+\.)*[A-Za-z](?:[\w.-]*\w)?(?::\d+)?"
_NUMBER = r"\d+(?:\[\])?"


def _last_line(pattern: str) -> str:
    return rf"(?:.*\n|\A)[^\S\n]*(?={pattern}[^\S\n]*(?:\r?\n|\Z))"


# A site's messages may stand before the id and behind it: it is the last line that is an id, else the last word that is
# one. A site's wrapper may leave the server's name out: then the last line that is a number, else "job 12".
_SUBMITTED = re.compile(
    rf"(?s)\A(?:{_last_line(_ID)}|.*(?<![\w.\[\]-])(?={_ID}(?![\w\[\]:-]))"
    rf"|{_last_line(_NUMBER)}|.*\b[Jj]ob(?:\s+[Ii][Dd])?[\s:=#]+(?={_NUMBER}\b))({_ID}|{_NUMBER})"
)


def submit_argv(script: Path) -> list[str]:
    """qsub prints the id and nothing else."""
    return ["qsub", str(script)]


def submit_environment(script: Path) -> dict[str, str]:
    """This process's environment; inside a job, with the PATH that the job itself was submitted with.

    PBS_DPREFIX would make qsub read other lines than #PBS ones, and PBS_SHELL would choose another shell.
    """
    environment = {key: value for key, value in clean_environment().items() if key not in ("PBS_DPREFIX", "PBS_SHELL")}
    if "PBS_JOBID" in os.environ and "PBS_O_PATH" in os.environ:
        environment["PATH"] = os.environ["PBS_O_PATH"]
    return environment


def check_client() -> None:
    """Refuse Slurm's own qsub, which understands #PBS lines differently. Raises ClientError."""
    try:
        version: str = call_client(["qsub", "--version"])
    except (ClientMissingError, ClientTimeoutError):
        raise
    except ClientError as error:
        version = str(error)
    if "pbs_version" not in version:
        words = plain(version)[:100] or "nothing"
        raise ClientError(
            f"this qsub does not belong to PBS (its --version prints {words!r}): on Slurm, use --scheduler slurm"
        )


def query(job: JobFolder, job_id: str, tasks: Sequence[str] = (), ask: Ask = call_client) -> dict[str, JobState]:
    """What PBS says of ``tasks``: the job itself by default, or ID_0, ID_1 ... of an array."""
    wanted = list(tasks or [job_id])
    try:
        found, words = _described(job_id, ask)
    except ClientError as error:
        return dict.fromkeys(wanted, JobState("unknown", str(error)))
    # If an array ended before it was expanded, PBS may name only the parent.
    missing = found.get(job_id, JobState("unknown", words))
    return dict.fromkeys(wanted, missing) | found


def _described(job_id: str, ask: Ask) -> tuple[dict[str, JobState], str]:
    """The states that qstat tells, and why it may tell none. Raises ClientError."""
    answered = describe([job_id], ask)
    if answered.code == UNKNOWN_JOB:
        return {job_id: FORGOTTEN}, ""
    found = _named_as(job_id, parse_qstat(answered.text))
    if job_id in found and found[job_id].phase != "unknown":
        return found, ""
    if answered.code:
        return found, plain(answered.said)
    if is_json(answered.text):
        return found, "qstat did not describe the job"
    plain_argv = [word for word in answered.argv if word not in ("-F", "json")]
    return found | _named_as(job_id, parse_plain(ask(plain_argv))), "qstat's answer is not JSON"


def _named_as(job_id: str, found: dict[str, JobState]) -> dict[str, JobState]:
    """States by ids such as ``job_id``: a site's qsub may have printed it without the server's name."""
    if "." in job_id:
        return found
    return {re.sub(r"\.[^_]*", "", name): state for name, state in found.items()}


def forgotten_has_ended(job_id: str) -> bool:
    """Whether a job that qstat does not know has ended: if the id names its server, that is the one which was asked.

    (OpenPBS, src/lib/Libcmds/get_server.c: the server in the id is asked, whatever this machine's default is.)
    """
    return "." in job_id


def query_all(questions: Sequence[Question], ask: Ask) -> list[dict[str, JobState]]:
    """What PBS says of many jobs, by one or two calls for every hundred."""
    return many.query_all(questions, ask, lambda one: query(one.job, one.job_id, one.tasks, ask))


def cancel(job: JobFolder, job_id: str) -> None:
    """Delete the job in PBS, unless it has just ended. Raises ClientError with PBS's message."""
    try:
        call_client(["qdel", "--", job_id])
    except ClientError as error:
        has_ended = error.code == ENDED_JOB or (error.code == UNKNOWN_JOB and forgotten_has_ended(job_id))
        if not has_ended:
            raise


def task_name(job_id: str, task: int) -> str:
    """PBS's name for a task: 12[3].server."""
    return job_id.replace("[]", f"[{task}]", 1)


def take_inventory(ask: Ask) -> Inventory:
    """What the cluster has, as its clients tell (inventory.py); imported when asked for: a status never is."""
    from vllm_hpc.schedulers.pbs.inventory import take_inventory as take

    return take(ask)


SCHEDULER = Scheduler(
    name="pbs",
    template="pbs.sh.j2",
    script="script.pbs",
    id_pattern=_SUBMITTED,
    id_alone=re.compile(f"{_ID}|{_NUMBER}", re.ASCII),
    submit_argv=submit_argv,
    cancel=cancel,
    query=query,
    query_all=query_all,
    environment=submit_environment,
    explain=lambda words, script: explain(words),
    find_job=find_job,
    take_inventory=take_inventory,
    is_lasting=is_lasting,
    cancel_client="qdel",
    refuses_host=refuses_host,
    check_host=check_host,
    forgotten_has_ended=forgotten_has_ended,
    task_name=task_name,
    launchers=("pbsdsh", "pbs_tmrsh", "mpiexec", "openmpi"),
    check_client=check_client,
    check_request=check_request,
    check_folder=check_folder,
    node_part=node_part,
    passes_environment=False,
    client=("qsub", re.compile("pbs_version")),  # Slurm has its own qsub
)
