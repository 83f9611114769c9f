"""What a job's script asks PBS from a compute node: whether it may submit there, and what became of a submission."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Sequence

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.job_ids import is_submission, submission_of
from vllm_hpc.schedulers.client import Ask, ClientError, ClientMissingError, call_client
from vllm_hpc.schedulers.pbs.qstat import ENDED_JOB, UNKNOWN_JOB, Fields, plain_fields

# Exit codes of clients are PBS's errors without their upper bits (src/include/pbs_error.h): a host that may not submit
# is told PBSE_PERM 15007, PBSE_BADHOST 15008 or PBSE_BADUSER 15023 ("Bad UID for job execution": the server does not
# trust the host, as a fresh one does not trust a compute node: flatuid is not set). Tried on OpenPBS 23.06.06.
_OF_THE_HOST = frozenset({159, 160, 175})
# A hook of the site has refused (PBSE_HOOKERROR 15136), in words of its own: "Illegal submission host", say. Its reason
# may be the time, the host or a limit, so another try may succeed.
_OF_A_HOOK = 32
# What is wrong with the script itself, in PBS's words.
_OF_THE_REQUEST = re.compile(r"unknown (queue|resource)|illegal |invalid option|bad gid|usage: qsub", re.IGNORECASE)
_NAME = re.compile(r"^#PBS -N (\S+)$", re.MULTILINE)
# As many jobs are described by one call of qstat, and as many of a user's jobs of one name are looked at.
_AT_ONCE, _MOST_JOBS = 100, 1000


def is_lasting(error: ClientError) -> bool:
    """Whether qsub will refuse this script, however often and wherever it is submitted."""
    return error.code != _OF_A_HOOK and _OF_THE_REQUEST.search(str(error)) is not None


def refuses_host(error: ClientError) -> bool:
    """Whether no submission from this host will be taken, however often it is tried."""
    # "Unknown Host. cannot connect to server" (15008, too) is a name that is not found, perhaps only now.
    is_reached = "cannot connect" not in str(error)
    return isinstance(error, ClientMissingError) or (error.code in _OF_THE_HOST and is_reached)


def check_host(job: JobFolder, job_id: str, ask: Ask = call_client) -> None:
    """Ask PBS for what it grants only to hosts that may submit: to give the job the name that it has.

    That submits nothing and changes nothing. A hook of the site may refuse a submission all the same. Raises
    ClientError if this host certainly cannot submit.
    """
    ask(["qsub", "--version"])
    try:
        ask(["qalter", "-N", _name(job) or "job", submission_of(job_id)])
    except ClientError as error:
        # A site may forbid qalter itself, and a server that is down now may be up in time.
        if refuses_host(error):
            raise


def find_job(job: JobFolder, known: Sequence[str], ask: Ask = call_client) -> str | None:
    """The id of the folder's job, waiting or running, that has none of these ids, None if there is none.

    ``known`` may lack the server's name, as where a site's qsub prints none. Raises ClientError, also if there are too
    many jobs to look at all of them.
    """
    name = _name(job)
    found = set(ask(["qselect", *_own_jobs(), *(["-N", name] if name else [])]).split())
    others = [job_id for job_id in found if not any(is_submission(job_id, one) for one in known)]
    newest = sorted(others, key=_number, reverse=True)
    for first in range(0, min(len(newest), _MOST_JOBS), _AT_ONCE):
        some = newest[first : first + _AT_ONCE]
        described = plain_fields(_describe(some, ask))
        for job_id in some:
            if _logs_into(job, described.get(job_id, {})):
                return job_id
    if len(newest) > _MOST_JOBS:
        raise ClientError(f"more than {_MOST_JOBS} jobs of yours have its name: not all of them were looked at")
    return None


def _own_jobs() -> list[str]:
    """Words for qselect that leave out other users' jobs of the same name."""
    try:
        return ["-u", pwd.getpwuid(os.geteuid()).pw_name]
    except KeyError:  # a node without the site's user database: then all are looked at
        return []


def _describe(ids: list[str], ask: Ask) -> str:
    """What qstat prints of these jobs, without those that have ended since. Raises ClientError."""
    try:
        return ask(["qstat", "-f", *ids])
    except ClientError as error:
        if error.code not in (UNKNOWN_JOB, ENDED_JOB):
            raise
        return error.output


def _logs_into(job: JobFolder, fields: Fields) -> bool:
    """Whether a job's log is that of the folder, as of no other folder's job."""
    _, _, path = fields.get("Output_Path", "").partition(":")
    return bool(path == str(job.scheduler_log))


def _name(job: JobFolder) -> str | None:
    """The job's name in PBS, from its script."""
    try:
        named = _NAME.search((job.path / "script.pbs").read_text(encoding="utf-8"))
    except OSError:
        return None
    return named[1] if named else None


def _number(job_id: str) -> int:
    digits = re.match(r"\d+", job_id)
    return int(digits[0]) if digits else 0
