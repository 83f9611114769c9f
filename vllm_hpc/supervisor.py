"""The local scheduler, the side that runs: ``python -m vllm_hpc.supervisor start SCRIPT`` prints a job id.

It detaches from the terminal, runs the script, and when that ends, is cancelled or runs out of time, sweeps up
every process that came of it (it is their subreaper, so none can slip away) and sees to the exit record. If it is
killed itself, the kernel sends TERM to the script, whose trap ends the ranks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from vllm_hpc.checks import parse_walltime
from vllm_hpc.jobfolder import Ending, ExitRecord, JobFolder, read_json, write_json
from vllm_hpc.schedulers.local import new_job_id, this_process

# linux/prctl.h
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
# Seconds between TERM and KILL: ranks leave within 5 s of a TERM, then torchrun needs a moment.
GRACE_S = 15


def start(script: Path) -> str:
    """Start a supervisor for the script, detached, and return the job's id once it is on record."""
    job = JobFolder(script.parent)
    with job.scheduler_log.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "vllm_hpc.supervisor", "run", str(script)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=job.path, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        job_id = process.stdout.readline().decode().strip()
    if not job_id:
        raise SystemExit(f"the supervisor did not start: see {job.scheduler_log}")
    return job_id


def run(script: Path) -> None:
    """Watch over one job until nothing is left of it."""
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    job = JobFolder(script.parent)
    job_id = new_job_id()
    write_json(job.supervisor, this_process(job_id))
    print(job_id, flush=True)
    os.dup2(2, 1)  # the pipe to `start` is not for the script
    limit = job.job().request.time
    deadline = time.monotonic() + parse_walltime(limit) if limit else float("inf")
    child = subprocess.Popen(
        ["bash", str(script)],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "VLLM_HPC_JOB_ID": job_id},
        preexec_fn=_prepare_child,
    )
    cause = _wait(child, deadline, wanted)
    if cause != "exit":
        # On record before the script's own trap can write that it met a signal.
        write_json(job.ending(_attempt(job)), Ending(cause))
        child.terminate()
    _sweep(child)
    _finish(job, child, cause)
    for segment in Path("/dev/shm").glob(f"vllm-hpc-{job_id}-*"):  # of ranks that died while they loaded
        segment.unlink(missing_ok=True)


def _wait(child: subprocess.Popen[bytes], deadline: float, wanted: set[signal.Signals]) -> str:
    """Wait for the script's end, a TERM or the deadline: exit, cancelled or timeout."""
    while child.poll() is None:
        seen = signal.sigtimedwait(wanted, 1.0)
        if seen is not None and seen.si_signo in (signal.SIGTERM, signal.SIGINT):
            return "cancelled"
        if time.monotonic() >= deadline:
            return "timeout"
    return "exit"


def _sweep(child: subprocess.Popen[bytes]) -> None:
    """Let the script end in its own good order for a while, then end all that is left."""
    give_up = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    left = _children(child)
    for process in left:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(left, timeout=3)
    # A process in the kernel's hands (a hung file system) cannot be killed: not waited for without end.
    give_up = time.monotonic() + GRACE_S
    while (left := _children(child)) and time.monotonic() < give_up:
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    if left:
        print(f"vllm-hpc: cannot be killed: {[process.pid for process in left]}", file=sys.stderr, flush=True)


def _children(script: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every live process under this one; the dead are reaped on the way, but for the script's shell (Popen does)."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
            elif process.ppid() == os.getpid() and process.pid != script.pid:
                process.wait(0)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            continue
    return found


def _finish(job: JobFolder, child: subprocess.Popen[bytes], cause: str) -> None:
    """Write the exit record if the script could not, or if it cannot know why it was ended."""
    number = _attempt(job)
    code = child.poll()
    if code is None:
        code = -signal.SIGKILL
    if cause == "exit":
        if read_json(job.exit_record(number), ExitRecord) is not None:
            return
        if code < 0:
            cause, code = signal.Signals(-code).name, 128 - code
    write_json(job.exit_record(number), ExitRecord(attempt=number, exit_code=code, cause=cause, ended_at=time.time()))


def _attempt(job: JobFolder) -> int:
    """The attempt that the script is, or would have been, had it lived to say so."""
    attempt = job.last_attempt()
    return attempt.attempt if attempt else 1


def _prepare_child() -> None:
    """Between fork and exec: the script dies with its supervisor, and gets the signals that we blocked."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    if sys.argv[1] == "start":
        print(start(Path(sys.argv[2])))
    else:
        run(Path(sys.argv[2]))
