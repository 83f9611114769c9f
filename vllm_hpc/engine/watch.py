"""A thread beside the rank's work: it answers TERM at once, sends heartbeats, and ends the rank if torchrun is gone.

The main thread may be deep in a collective that never returns (a peer died), where Python runs no signal handler;
the C part of one still writes into the wake-up pipe, and this thread reads that.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import threading
import time

import psutil

from vllm_hpc.engine.report import RankReport
from vllm_hpc.jobfolder import RankError

HEARTBEAT_S = 5.0
# Seconds after another rank's failure in which torchrun should have ended this one; where it cannot (the node's daemon
# is dead), the rank goes by itself rather than wait in a collective for ever.
LINGER_S = 20.0
_LOOK_S = 1.0
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def start(report: RankReport) -> None:
    """Watch over this process until it ends. Call it on the main thread, once."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    launcher = os.getppid()
    # torchrun's workers are leaders of their own sessions and outlive it when it is killed; the kernel tells us.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    threading.Thread(target=_watch, args=(report, reader, launcher), name="vllm-hpc-watch", daemon=True).start()


def _watch(report: RankReport, reader: int, launcher: int) -> None:
    try:
        _look_around(report, reader, launcher)
    finally:  # without this thread nothing would answer TERM: better to end the rank than to leave it deaf
        os._exit(128 + signal.SIGTERM)


def _look_around(report: RankReport, reader: int, launcher: int) -> None:
    above = _parent_of(launcher)
    last_beat, failed_at = 0.0, float("inf")
    while True:
        if time.monotonic() - last_beat >= HEARTBEAT_S:
            last_beat = time.monotonic()
            with contextlib.suppress(OSError):  # a full disk must not end the work; the shards will say it
                report.heartbeat()
            if report.others_have_failed():
                failed_at = min(failed_at, last_beat)
        if time.monotonic() - failed_at >= LINGER_S:
            return _leave(report, None)
        ready, _, _ = select.select([reader], [], [], _LOOK_S)
        told_to_leave = bool(ready) and signal.SIGTERM in os.read(reader, 64)
        if told_to_leave:
            _let_it_die(launcher)
        if os.getppid() != launcher:
            return _leave(report, "what started this rank (torchrun, or srun's step) was killed")
        if _parent_of(launcher) != above:
            return _leave(report, "what started torchrun (the script, or srun's step) was killed")
        if told_to_leave:
            return _leave(report, None)


def _leave(report: RankReport, why: str | None) -> None:
    """Put on record why this process ends now. Rows are written whole and at once, so there is nothing to flush."""
    with contextlib.suppress(OSError):
        print(f"vllm-hpc: {why or 'told to leave'}", flush=True)
    with contextlib.suppress(OSError):
        report.terminated(RankError("LauncherLost", why, "") if why else None)


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
