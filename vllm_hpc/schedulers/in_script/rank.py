"""One rank, as its script starts it: submitit runs what the job folder's ranks/task.json says.

submitit's files are pickles, which are code: they lie in a folder of this rank alone, and are gone with it.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import NoReturn

import msgspec
from submitit.core.submission import process_job
from submitit.core.utils import DelayedSubmission

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.private import PRIVATE_UMASK, is_private
from vllm_hpc.jobfolder.record_files import read_job
from vllm_hpc.schedulers.pbs.attach import attach_to_job
from vllm_hpc.schedulers.scheduler import installed_scheduler
from vllm_hpc.schedulers.submitit_environment import VllmHpcJobEnvironment
from vllm_hpc.schedulers.submitit_executor import RankTask
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.own_python import module_argv
from vllm_hpc.spec.ownership import read_mine
from vllm_hpc.spec.write_file import make_mark


def main(argv: list[str]) -> int:
    """Run this process's rank of the job in ``argv[0]``, and end this process: not with 0 after an error."""
    folder = JobFolder(argv[0])
    if is_private(folder.path):  # not every launcher hands on the script's umask
        os.umask(PRIVATE_UMASK)
    _note_joined(folder)
    _attach()
    task = _read_task(folder)
    _check_host(folder)
    leave(_run(task))


def _read_task(folder: JobFolder) -> RankTask:
    """What all ranks of the job run, in this folder whatever its name was then. Raises RequestError.

    A job that an earlier version submitted has no such file.
    """
    try:
        task = msgspec.json.decode(read_mine(folder.task), type=RankTask)
    except FileNotFoundError:
        task = RankTask("")
    except (OSError, msgspec.DecodeError) as error:
        raise RequestError(f"cannot read the job's task: {error}") from None
    return msgspec.structs.replace(task, folder=str(folder.path))


def _run(task: RankTask) -> int:
    """Run the task as submitit does, with its files in a folder of this rank alone, and return the exit code.

    That is 1 after an error, or the one that a script of the user's has ended with.
    """
    try:
        # In the folder that the script removes: a rank that is killed removes nothing.
        with tempfile.TemporaryDirectory(prefix="vllm-hpc-rank-", dir=_scratch()) as private:
            VllmHpcJobEnvironment.private = private
            DelayedSubmission(task).dump(VllmHpcJobEnvironment().paths.submitted_pickle)
            process_job(private)
    except Exception as error:  # noqa: BLE001 - whatever ended it, and is on record
        code = getattr(error, "rank_exit_code", None)
        if code is None:
            traceback.print_exc()
            return 1
        print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)  # sys.exit(3) prints no traceback elsewhere, either
        return int(code)
    return 0


def _scratch() -> str | None:
    """The folder that this node's script removes in the end; None where there is none, as in some containers."""
    folder = os.environ.get("VLLM_HPC_SCRATCH", "")
    return folder if os.path.isdir(folder) else None  # noqa: PTH112 - "" is none


def leave(code: int) -> NoReturn:
    """End this process, whose outcome is on record, with what packages do at exit, but without the interpreter's end.

    A thread of torch (of gloo or NCCL) may still let go of a tensor: while the interpreter is taken down, that aborts
    the process (pytorch/pytorch#117762, #190489), and a job that has all its rows would fail. Nor can a library's
    destructor, or a thread that does not end, change the exit code.
    """
    with suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a full disk, or a closed stream
            stream.flush()
    os._exit(code)


def _attach() -> None:
    """Make this rank part of its PBS job; of a node's ranks one says it if that fails, and all run on."""
    why_not = attach_to_job(os.environ)
    if why_not and os.environ.get("LOCAL_RANK", "0") == "0":
        print(f"vllm-hpc: PBS does not count {os.uname().nodename}'s ranks as part of the job: {why_not}", flush=True)


def _check_host(folder: JobFolder) -> None:
    """Find out whether the job's first host may submit the next attempt, in a process that nothing waits for."""
    record = read_job(folder.job_json)
    attempt = os.environ.get("VLLM_HPC_ATTEMPT")
    if os.environ.get("VLLM_HPC_IMAGE"):  # which has no client of the scheduler: the script asks
        return
    if record is None or attempt is None or os.environ.get("RANK") != "0" or not record.request.max_requeues:
        return
    scheduler = installed_scheduler(record.scheduler)
    if scheduler is not None and scheduler.check_host is not None and os.environ.get("VLLM_HPC_TASK", "0") == "0":
        argv = module_argv("vllm_hpc.in_job", "check-host", str(folder.path), attempt)
        subprocess.run(["sh", "-c", '"$@" &', "sh", *argv], stdin=subprocess.DEVNULL)


def _note_joined(folder: JobFolder) -> None:
    """Mark this rank's node as joined, where a launch line of a site's own has not had the node's task do it.

    Not where the script watches no nodes, as on one machine.
    """
    attempt, node = os.environ.get("VLLM_HPC_ATTEMPT"), os.environ.get("GROUP_RANK")
    if attempt and node and os.environ.get("VLLM_HPC_WATCHED"):
        with suppress(OSError):  # a full disk is the rank's to report
            make_mark(folder.joined(int(attempt), int(node)))
