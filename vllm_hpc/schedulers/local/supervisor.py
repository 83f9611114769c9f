"""The local scheduler's supervisor: ``start SCRIPT`` prints a job id and leaves the supervisor running.

It detaches from the terminal, waits for its turn on this machine, and runs the script. When the script ends, is
cancelled or runs out of time, the supervisor ends every process that is left of it (as their subreaper it misses none),
and makes sure that there is an exit record. If the supervisor itself is killed, the kernel sends TERM to the script,
whose trap ends the ranks.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import OwnJobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Attempt, Ending, ExitRecord, JobRecord
from vllm_hpc.schedulers.local import SUPERVISOR, new_job_id
from vllm_hpc.schedulers.local.turn import Turn
from vllm_hpc.schedulers.own_script import read_script
from vllm_hpc.spec.own_python import module_argv
from vllm_hpc.spec.prctl import signal_on_death_of_parent, take_orphans
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.shared_memory import remove_segments
from vllm_hpc.spec.values import parse_walltime
from vllm_hpc.spec.write_file import open_append

# Seconds between TERM and KILL: ranks leave within 5 s of a TERM, then torchrun needs a moment.
GRACE_S = 15
# Seconds for ranks whose torchrun was killed: twice what they need, because on a busy machine they would be killed
# before they have recorded why they ended.
_LEAVE_S = 10


def start(script: Path) -> str:
    """Start a supervisor for the script, detached, and return the job's id once it is on record."""
    job = JobFolder(script.parent)
    with os.fdopen(open_append(job.scheduler_log), "ab") as log:
        before = log.tell()
        process = subprocess.Popen(
            module_argv(SUPERVISOR, "run", str(script)),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=job.path, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        job_id = process.stdout.readline().decode().strip()
    if not job_id:  # quote its log: the folder will be gone by the time someone reads this
        with open_regular(job.scheduler_log, follow_links=False) as log:
            log.seek(before)
            words = log.read().decode(errors="replace").split("\n")
        raise SystemExit(f"the supervisor did not start: {next(filter(None, reversed(words)), 'it printed nothing')}")
    return job_id


def run(script: Path) -> None:
    """Supervise one job until none of its processes is left."""
    wanted = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    take_orphans()
    job = JobFolder(script.parent)
    record, words = OwnJobFolder(job.path).job(), _keep(script)
    job_id = new_job_id()
    turn = Turn(job, record, job_id)  # before the id is known: the next one to be submitted comes after it
    print(job_id, flush=True)
    os.dup2(2, 1)  # the pipe to `start` is not for the script
    if turn.wait(wanted):
        while _run_attempt(job, record, words, job_id, wanted, turn):
            pass
    else:
        _end_unstarted(job, job_id)
    turn.leave()


def _end_unstarted(job: JobFolder, job_id: str) -> None:
    """Put on record that the job was cancelled while it waited. It uses a number, as if its script had died at once."""
    number, now = job.last_number() + 1, time.time()
    _put_on_record(job.attempt(number), Attempt(attempt=number, job_id=job_id, host=platform.node(), started_at=now))
    ended = ExitRecord(attempt=number, exit_code=128 + signal.SIGTERM, cause="cancelled", ended_at=now)
    _put_on_record(job.exit_record(number), ended)


def _keep(script: Path) -> list[str]:
    """The words that run the script as it is now: others may be able to replace the file before the next attempt.

    The last one is only for whoever lists processes.
    """
    kept = os.memfd_create(script.name, 0)
    with os.fdopen(kept, "wb", closefd=False) as memory:
        memory.write(read_script(script))
    return ["bash", f"/proc/{os.getpid()}/fd/{kept}", str(script)]


def _run_attempt(
    job: JobFolder,
    record: JobRecord,
    words: list[str],
    job_id: str,
    wanted: set[signal.Signals],
    turn: Turn | None = None,
) -> bool:
    """Run the script once, for one walltime. Returns whether it asks to run again."""
    before, began = job.last_number(), time.time()
    child = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "VLLM_HPC_JOB_ID": job_id, **(turn.environment if turn else {})},
        pass_fds=turn.descriptors if turn else (),
        preexec_fn=_prepare_child,
    )
    cause = _wait(child, record.request, wanted, lambda: _has_left(job, record, before))
    # The script's attempt number, or the one it would have taken if it had not died first.
    number = max(job.last_number(), before + 1)
    if cause != "exit":
        # Recorded before the script's own trap can write that it got a signal.
        _put_on_record(job.ending(number), Ending(cause))
        child.terminate()
    _sweep(child)
    if not job.attempt(number).exists():
        # Killed before it could take its number. Use the number anyway: 'vllm-hpc resume' must find it taken, or the
        # next script would be mistaken for the one that has ended.
        this = Attempt(attempt=number, job_id=job_id, host=platform.node(), started_at=began)
        _put_on_record(job.attempt(number), this)
    _finish(job, child, cause, number)
    remove_segments(f"vllm-hpc-{job_id}-")  # of ranks that died while they loaded
    ended = job.exit_of(number)
    return ended is not None and ended.cause == "requeue"


def _wait(
    child: subprocess.Popen[bytes], request: Request, wanted: set[signal.Signals], has_left: Callable[[], bool]
) -> str:
    """Wait for the script's end, a TERM or the walltime: exit, cancelled or timeout. USR2 is sent before the last.

    A script whose ranks have left by then is about to end normally; on a busy machine that takes a moment longer.
    """
    limit = parse_walltime(request.time) if request.time else float("inf")
    deadline = time.monotonic() + limit
    warn_at = deadline - request.lead_s
    while child.poll() is None:
        seen = signal.sigtimedwait(wanted, 1.0)
        if seen is not None and seen.si_signo in (signal.SIGTERM, signal.SIGINT):
            return "cancelled"
        if time.monotonic() >= warn_at:
            warn_at = float("inf")
            child.send_signal(signal.SIGUSR2)
        over = time.monotonic() - deadline
        if over >= GRACE_S or (over >= 0 and not has_left()):
            return "timeout"
    return "exit"


def _has_left(job: JobFolder, record: JobRecord, before: int) -> bool:
    """Whether every rank of the attempt after ``before`` has ended normally."""
    attempt = job.last_number()
    ranks = job.records_of(range(record.plan.layout.world_size))
    ended = [rank for rank in ranks if rank.attempt == attempt > before and rank.outcome == "ok"]
    return len(ended) == record.plan.layout.world_size


def _sweep(child: subprocess.Popen[bytes]) -> None:
    """Give the script some time to end by itself, then end whatever is left."""
    give_up = time.monotonic() + GRACE_S
    while child.poll() is None and time.monotonic() < give_up:
        time.sleep(0.05)
    left = _children(child)
    for process in left:
        _signal(process, signal.SIGTERM)
    psutil.wait_procs(left, timeout=_LEAVE_S)
    # A process stuck in the kernel (a hung file system) cannot be killed: do not wait for it forever.
    give_up = time.monotonic() + GRACE_S
    while (left := _children(child)) and time.monotonic() < give_up:
        for process in left:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(left, timeout=1)
    if left:
        print(f"vllm-hpc: cannot kill processes {[process.pid for process in left]}", file=sys.stderr, flush=True)


def _children(script: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Every live process under this one. Reaps the dead ones, except the script's shell (Popen reaps that)."""
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


def _finish(job: JobFolder, child: subprocess.Popen[bytes], cause: str, number: int) -> None:
    """Write the exit record if the script could not, or cannot know why it was ended."""
    code = child.poll()
    if code is None:
        code = -signal.SIGKILL
    if cause == "exit":
        if read_json(job.exit_record(number), ExitRecord) is not None:
            return
        if code < 0:
            cause, code = signal.Signals(-code).name, 128 - code
    ended = ExitRecord(attempt=number, exit_code=code, cause=cause, ended_at=time.time())
    _put_on_record(job.exit_record(number), ended)


def _put_on_record(path: Path, record: Attempt | Ending | ExitRecord) -> None:
    """Write a record. On a full disk report that and continue: the script's processes must still be ended."""
    try:
        write_json(path, record)
    except OSError as error:
        with suppress(OSError):  # the log may be on the same disk
            print(f"vllm-hpc: cannot write {path}: {error.strerror}", file=sys.stderr, flush=True)


def _prepare_child() -> None:
    """Between fork and exec: let the script die with its supervisor, and unblock the signals that we blocked."""
    signal_on_death_of_parent(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return


def main(argv: list[str]) -> int:
    """``start SCRIPT`` starts a detached supervisor and prints the job's id; ``run SCRIPT`` is that supervisor."""
    verb, script = argv
    if verb == "start":
        print(start(Path(script)))
    else:
        run(Path(script))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
