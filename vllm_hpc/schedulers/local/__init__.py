"""The local scheduler's client side: a supervisor process runs the job on this machine."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import msgspec
import psutil

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import Ask, ClientTimeoutError
from vllm_hpc.schedulers.local.setting import check_setting
from vllm_hpc.schedulers.scheduler import JobState, Scheduler
from vllm_hpc.spec.errors import FailedError
from vllm_hpc.spec.own_python import module_argv

SUPERVISOR, _SUPERVISOR_OF_0_1 = "vllm_hpc.schedulers.local.supervisor", "vllm_hpc.supervisor"
# Seconds that a cancelled job may take: ranks leave within 5 s of a TERM; torchrun and the sweep take longer.
CANCEL_TIMEOUT_S = 45


class SupervisorRecord(msgspec.Struct, frozen=True, kw_only=True):
    """state/supervisor.json: the process that watches a job.

    ``boot`` and ``started`` (clock ticks since boot, as in /proc/<pid>/stat) tell it from a later process with the same
    pid, even if the clock is changed. ``waits_for``: what the job waits for, in words, before its script starts.
    """

    job_id: str
    host: str
    pid: int
    boot: str
    started: int
    uuid: str = ""
    waits_for: str = ""


def submit_argv(script: Path) -> list[str]:
    """The command that starts a supervisor, detached, and prints the job's id."""
    return module_argv(SUPERVISOR, "start", str(script))


def query(job: JobFolder, job_id: str, tasks: Sequence[str], ask: Ask) -> dict[str, JobState]:
    """Whether the supervisor is alive."""
    return {job_id: _query(job)}


def _query(job: JobFolder) -> JobState:
    """The state; UNKNOWN on any host but the job's own."""
    record = job.read(job.supervisor, SupervisorRecord)
    if record is None:
        return JobState("gone", "its supervisor left no record")
    if record.host != platform.node():
        return JobState("unknown", f"it runs on {record.host}: ask for its status there")
    if find_supervisor(record) is None:
        return JobState("gone", "its supervisor is gone and left no exit record (killed, or the machine restarted)")
    has_begun = not record.waits_for or any(one.job_id == record.job_id for one in job.attempts())
    return JobState("running") if has_begun else JobState("waiting", record.waits_for)


def cancel(job: JobFolder, job_id: str) -> None:
    """Tell the supervisor to end the job, and wait until it has. Raises FailedError."""
    record = job.read(job.supervisor, SupervisorRecord)
    if record is not None and record.host != platform.node():
        raise FailedError(f"the job runs on {record.host}: cancel it there")
    process = find_supervisor(record) if record else None
    if process is None:
        return
    try:
        _check_supervises(process, job)
        process.terminate()
        process.wait(CANCEL_TIMEOUT_S)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise FailedError(
            f"the job belongs to another user (supervisor {process.pid}): only its owner can cancel it"
        ) from None
    except psutil.TimeoutExpired:
        raise ClientTimeoutError(
            f"supervisor {process.pid} did not end within {CANCEL_TIMEOUT_S} s of SIGTERM"
        ) from None


def _check_supervises(process: psutil.Process, job: JobFolder) -> None:
    """Refuse to signal what is not the supervisor of this folder. Raises FailedError, psutil's errors.

    A supervisor's working directory is its job's folder, by whatever name that is reached.
    """
    words = process.cmdline()
    is_one, is_here = any((name, "run") in pairwise(words) for name in (SUPERVISOR, _SUPERVISOR_OF_0_1)), False
    with suppress(OSError):  # of another user's process it cannot be known
        is_here = job.path.samefile(f"/proc/{process.pid}/cwd")
    if not (is_one and is_here):
        raise FailedError(
            f"process {process.pid} is not the supervisor of {str(job.path)!r}, as {str(job.supervisor)!r} says: "
            "nothing was cancelled"
        )


def find_job(job: JobFolder, known: Sequence[str]) -> str | None:
    """The id of the job if its supervisor runs on this host."""
    record = job.read(job.supervisor, SupervisorRecord)
    if record is None or record.job_id in known or record.host != platform.node():
        return None
    return record.job_id if find_supervisor(record) else None


def find_supervisor(record: SupervisorRecord) -> psutil.Process | None:
    """The live process of that record; None if it is gone or a zombie, or another process has its pid now."""
    try:
        if (record.boot, record.started) != (_boot_id(), _start_ticks(record.pid)):
            return None
        process = psutil.Process(record.pid)
        return process if process.status() != psutil.STATUS_ZOMBIE else None
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        return None


def this_process(job_id: str, uuid: str = "", waits_for: str = "") -> SupervisorRecord:
    """The record of the calling process, which watches the job of that ``uuid``."""
    pid = os.getpid()
    return SupervisorRecord(
        job_id=job_id, host=platform.node(), pid=pid, boot=_boot_id(), started=_start_ticks(pid), uuid=uuid,
        waits_for=waits_for,
    )  # fmt: skip


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _start_ticks(pid: int) -> int:
    """Field 22 of /proc/<pid>/stat (man 5 proc); the second may contain spaces and ends with the last ')'."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def new_job_id() -> str:
    """An id that no other local job on this machine has: the supervisor's pid and the second it started."""
    return f"{os.getpid()}-{int(time.time())}"


SCHEDULER = Scheduler(
    name="local",
    runs_here=True,
    template="local.sh.j2",
    script="script.sh",
    id_pattern=re.compile(r"^(\d+-\d+)$", re.MULTILINE),
    id_alone=re.compile(r"\d+-\d+", re.ASCII),
    submit_argv=submit_argv,
    check_client=check_setting,
    cancel=cancel,
    query=query,
    find_job=find_job,
    environment=lambda script: dict(os.environ),  # with an allocation's variables: the job will run in it
)
