"""PBS (OpenPBS, PBS Professional): qsub, qdel and qstat.

``qstat -x`` knows a job for as long as the server keeps its history. A job that it does not know is forgotten, and one
that it does not describe in full is unknown; neither is failed. All of this was seen on OpenPBS 23.06.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from vllm_hpc.schedulers.pbs.reasons import exit_state, explain, waiting_reason
from vllm_hpc.schedulers.pbs.request import check_folder, check_request
from vllm_hpc.schedulers.scheduler import JobState, Question, Scheduler

# 12.server, and 12[].server for an array; a server may have a port (12.server:15001). It is the last line: a site's
# messages may come first, and contain something like 2.50.
_SUBMITTED = re.compile(r"^(\d+(?:\[\])?\.[A-Za-z][\w.-]*(?::\d+)?)\s*\Z", re.MULTILINE)
_TASK = re.compile(r"(?P<number>\d+)\[(?P<task>\d+)\](?P<server>\..+)")
# qstat's exit code for an id that the server does not know, or no longer knows.
UNKNOWN_JOB = 153
# qdel's exit code for a job that has ended, and that of qstat without -x.
ENDED_JOB = 35
# A server without a history refuses qstat -x, and does not know jobs that have ended.
_NO_HISTORY = re.compile(r"job history", re.IGNORECASE)
_WAITING = frozenset("HQTW")
_RUNNING = frozenset("REBSU")


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
        version = call_client(["qsub", "--version"])
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
        found = parse_qstat(_answer(job_id, ask))
    except ClientError as error:
        is_gone = error.code == UNKNOWN_JOB
        missing = (
            JobState("forgotten", "PBS does not know the job (any more)")
            if is_gone
            else JobState("unknown", str(error))
        )
        return dict.fromkeys(wanted, missing)
    # If an array ended before it was expanded, PBS may name only the parent.
    missing = found.get(job_id, JobState("unknown", "qstat did not describe the job"))
    return dict.fromkeys(wanted, missing) | found


def _answer(job_id: str, ask: Ask) -> str:
    argv = ["qstat", "-x", *(["-t"] if "[" in job_id else []), "-f", "-F", "json", job_id]
    try:
        return ask(argv)
    except ClientError as error:
        if not _NO_HISTORY.search(str(error)):
            raise
        return ask([word for word in argv if word != "-x"])


def parse_qstat(text: str) -> dict[str, JobState]:
    """The output of ``qstat -f -F json``, by id; a subjob ``12[3].server`` under ``12[].server_3``.

    PBS does not escape control characters in strings.
    """
    try:
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return {}
    jobs = answer.get("Jobs") if isinstance(answer, dict) else None
    if not isinstance(jobs, dict):
        return {}
    return {_task_id(name): _state(fields) for name, fields in jobs.items() if isinstance(fields, dict)}


def _task_id(name: str) -> str:
    match = _TASK.fullmatch(name)
    return f"{match['number']}[]{match['server']}_{match['task']}" if match else name


def _state(fields: dict[str, Any]) -> JobState:
    state, code = str(fields.get("job_state")), fields.get("Exit_status")
    if state in _WAITING:  # including a job whose first host died: it has an Exit_status, but will run again
        return JobState("waiting", waiting_reason(fields))
    if state in _RUNNING:
        return JobState("running", "suspended" if state in "SU" else "")
    if state in ("F", "X"):
        return exit_state(code, str(fields.get("comment", "")))
    return JobState("unknown", f"PBS says {state}")


def query_all(questions: Sequence[Question], ask: Ask) -> list[dict[str, JobState]]:
    """What PBS says of many jobs, by one or two calls for every hundred."""
    return many.query_all(questions, ask, parse_qstat, lambda one: query(one.job, one.job_id, one.tasks, ask))


def cancel(job: JobFolder, job_id: str) -> None:
    """Delete the job in PBS, unless it has just ended. Raises ClientError with PBS's message."""
    try:
        call_client(["qdel", job_id])
    except ClientError as error:
        if error.code != ENDED_JOB:
            raise


def task_name(job_id: str, task: int) -> str:
    """PBS's name for a task: 12[3].server."""
    return job_id.replace("[]", f"[{task}]", 1)


SCHEDULER = Scheduler(
    name="pbs",
    template="pbs.sh.j2",
    script="script.pbs",
    id_pattern=_SUBMITTED,
    submit_argv=submit_argv,
    cancel=cancel,
    query=query,
    query_all=query_all,
    environment=submit_environment,
    explain=lambda words, script: explain(words),
    task_name=task_name,
    launchers=("pbsdsh", "pbs_tmrsh", "mpiexec", "openmpi"),
    check_client=check_client,
    check_request=check_request,
    check_folder=check_folder,
    client=("qsub", re.compile("pbs_version")),  # Slurm has its own qsub
)
