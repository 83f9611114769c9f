"""A thread beside the rank's work: it answers TERM at once, sends heartbeats, and ends the rank if torchrun is gone.

The main thread may be in a collective that never returns (a peer died), where Python runs no signal handler. But the C
part of a handler still writes into the wake-up pipe, and this thread reads that.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from typing import NamedTuple

import psutil

from vllm_hpc.engine.health.awake_clock import AwakeClock, Still
from vllm_hpc.engine.health.rank_record import Mark, PeerStalledError, Phase, RankReport, is_echo
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, RankError

HEARTBEAT_S = 5.0
# Seconds that one step may take. The longest legitimate ones: a first step that compiles, a grammar, a huge prompt.
STALL_S = 900.0
# A rank whose heartbeat is unchanged for this long, by the file system's own clock, is dead. NFS may show an old one
# for a minute. A wrong guess costs time, not rows: a row in two shards counts once.
DEAD_AFTER_S = 180.0
# Seconds within which torchrun should end this rank after another one failed. If it cannot (the node's daemon is dead),
# the rank leaves by itself instead of waiting in a collective forever.
LINGER_S = 20.0
# Ranks that wait for a stalled one, in a collective of a step or for its decision, stall almost as long. The stalled
# one must report first, and the others leave with it (LINGER_S): its error is the cause, and decides whether rows are
# suspected. So a rank that hangs between two steps reports first, then one in a step, then one that waits for others.
_LATER_S = {Phase.STEP: LINGER_S + 2 * HEARTBEAT_S, Phase.AGREE: 2 * (LINGER_S + 2 * HEARTBEAT_S)}
_WORDS = {
    Phase.STEP: "the engine has been in one step {limit}: ranks wait for each other, or a kernel hangs",
    Phase.CLAIM: "the rank has been claiming rows {limit}: the job folder's file system or the job's store hangs",
    Phase.READ: "the rank has been waiting for a row {limit}: the input's file system, tokenizer or grammar hangs",
    Phase.ADMIT: "the rank has been admitting row {row} {limit}: vLLM, or the row's grammar, does not finish",
    Phase.WRITE: "the rank has been waiting to hand over finished rows {limit}: the job folder's file system hangs",
    Phase.AGREE: "the rank has been waiting for its replica's other ranks {limit}: one of them hangs, or is gone",
}
_LOOK_S = 1.0
# Seconds within which a process that was killed is gone after its connections were closed.
_DYING_S = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Launcher(NamedTuple):
    """The process that started this rank, and the one that had started that."""

    pid: int
    above: int | None

    def lost(self) -> str | None:
        """Say which of the two is gone; None if both are there."""
        if os.getppid() != self.pid:
            return "the process that started this rank (torchrun, or srun's step) was killed"
        if _parent_of(self.pid) != self.above:
            return "the process that started torchrun (the script, or srun's step) was killed"
        return None

    def lost_soon(self, within_s: float) -> str | None:
        """The same, for a process that may be dying: its sockets are closed before it is gone."""
        give_up = time.monotonic() + within_s
        while (lost := self.lost()) is None and time.monotonic() < give_up:
            time.sleep(0.05)
        return lost


def start(report: RankReport, stall_s: float, dead_s: float) -> Launcher:
    """Watch this process until it ends, and return what started it. Call it once, on the main thread.

    A step that takes more than ``stall_s`` seconds will not end: ranks wait for each other in it. The same limit holds
    for what the loop does between two steps. A rank whose heartbeat is ``dead_s`` seconds late is dead; if its node is
    dead too, nothing else reports that for a long time. Time in which this process was stopped does not count.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    launcher = Launcher(os.getppid(), _parent_of(os.getppid()))
    # torchrun's workers lead sessions of their own and outlive torchrun when it is killed; the kernel tells us.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    threading.Thread(
        target=_watch, args=(report, reader, launcher, stall_s, dead_s), name="vllm-hpc-watch", daemon=True
    ).start()
    return launcher


def record_error(report: RankReport, launcher: Launcher | None, error: BaseException) -> None:
    """Record that this rank dies of ``error``, or, if that is only an echo of it, of the loss of what started it.

    torchrun has the store of all ranks, and may be killed like them, also by the kernel, for memory.
    """
    lost = launcher.lost_soon(_DYING_S) if launcher and is_echo(error) else None
    if lost:
        report.terminated(RankError(LAUNCHER_LOST, lost, ""))
    else:
        report.failed(error)


def _watch(report: RankReport, reader: int, launcher: Launcher, stall_s: float, dead_s: float) -> None:
    try:
        _look_around(report, reader, launcher, stall_s, dead_s)
    finally:  # without this thread nothing would answer TERM: end the rank instead
        with contextlib.suppress(Exception):
            kill_children()
        os._exit(128 + signal.SIGTERM)


def _look_around(report: RankReport, reader: int, launcher: Launcher, stall_s: float, dead_s: float) -> None:
    clock, standing = AwakeClock(), Still()
    last_beat, failed_at = float("-inf"), float("inf")
    while True:
        now = clock.seconds()
        if now - last_beat >= HEARTBEAT_S:
            last_beat = now
            if _beat(report):
                failed_at = min(failed_at, now)
            elif report.has_silent_neighbour(dead_s, now):
                return _leave(report, f"rank {report.neighbour} has shown no sign of life for {dead_s:g} s", "PeerLost")
        if now - failed_at >= LINGER_S:
            return _leave(report, None)
        mark = report.mark
        seconds = standing.seconds(mark, now)
        if mark is not None and seconds >= stall_s + _LATER_S.get(mark.phase, 0.0):
            return _give_up(report, mark, stall_s)
        ready, _, _ = select.select([reader], [], [], _LOOK_S)
        told_to_leave = bool(ready) and signal.SIGTERM in os.read(reader, 64)
        if told_to_leave:
            _let_it_die(launcher.pid)
        lost = launcher.lost()
        if lost or told_to_leave:
            return _leave(report, lost)


def _beat(report: RankReport) -> bool:
    """Write a heartbeat, and return whether another rank has failed."""
    with contextlib.suppress(OSError):  # a full disk must not end the work here; the shards report it
        report.heartbeat()
    return report.others_have_failed()


def _give_up(report: RankReport, mark: Mark, stall_s: float) -> None:
    """Log where every thread is, and end the rank."""
    error = _stall(mark, stall_s)
    with contextlib.suppress(OSError):
        print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    with contextlib.suppress(OSError):
        report.failed(error)
    report.on_leave()


def _stall(mark: Mark, stall_s: float) -> TimeoutError:
    """The error of a rank that has not got beyond ``mark``."""
    what = _WORDS[mark.phase].format(limit=f"for more than {stall_s:g} s", row=mark.row)
    if mark.phase is Phase.STEP:
        return TimeoutError(f"{what}; its log has the stacks (longer steps: --env VLLM_HPC_STALL_S=SECONDS)")
    kind = PeerStalledError if mark.phase is Phase.AGREE else TimeoutError
    return kind(
        f"between two steps of the engine {what}; its log has the stacks, and no row is suspected: "
        "fix that, then run 'vllm-hpc resume' (longer waits: --env VLLM_HPC_STALL_S=SECONDS)"
    )


def _leave(report: RankReport, why: str | None, kind: str = LAUNCHER_LOST) -> None:
    """Write what waits to be written, and record why this process ends now."""

    def flush_and_say() -> None:
        report.on_leave()
        with contextlib.suppress(OSError):
            print(f"vllm-hpc: {why or 'told to leave'}", flush=True)

    with contextlib.suppress(OSError):
        report.terminated(RankError(kind, why, "") if why else None, flush_and_say)


def kill_children(pid: int | None = None) -> None:
    """Kill the children of this process, or of ``pid``: a native vLLM worker that waits for others would not leave.

    Python's resource tracker stays: it removes their shared memory once they are gone, and then ends by itself. So
    does what copies the last lines of a log (log_relay.py).
    """
    for child in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any(name in " ".join(child.cmdline()) for name in ("resource_tracker", "log_relay")):
                child.kill()


def _let_it_die(launcher: int) -> None:
    """Wait a moment for a launcher that is being killed: the kernel sends our TERM when its first thread dies."""
    give_up = time.monotonic() + _LOOK_S
    while os.getppid() == launcher and time.monotonic() < give_up:
        time.sleep(0.05)


def _parent_of(pid: int) -> int | None:
    try:
        return psutil.Process(pid).ppid()
    except psutil.NoSuchProcess:
        return None
