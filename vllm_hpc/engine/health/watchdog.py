"""A thread beside the rank's work: it answers TERM at once, sends heartbeats, and ends the rank if torchrun is gone.

The main thread may be in a collective that never returns (a peer died), where Python runs no signal handler. But the C
part of a handler still writes into the wake-up pipe, and this thread reads that.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
from functools import partial
from typing import NamedTuple

import psutil

from vllm_hpc.engine.health import hang, stacks
from vllm_hpc.engine.health.awake_clock import AwakeClock, Still
from vllm_hpc.engine.health.inquiry import Listener, Witness
from vllm_hpc.engine.health.rank_record import Phase, RankReport, is_echo
from vllm_hpc.engine.health.stall_errors import endless, stall
from vllm_hpc.jobfolder.debug_records import Hang, RankView
from vllm_hpc.jobfolder.judge_hang import OUTSIDE
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, RankError
from vllm_hpc.spec.prctl import signal_on_death_of_parent

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
_LOOK_S = 1.0
# Seconds between two looks for the answers of the other ranks.
_ASK_S = 0.2
# Parts of a rank's work in which others may have to wait for as long as a model loads; and waits that may take as long
# as the other ranks have work, or that have a limit of their own.
_LOADS = ("launch", "import", "load", "warm_up")
_LONG_WAITS = ("the end of the other ranks", "the start of the other ranks", "ctx.barrier")
# Seconds within which a process that was killed is gone after its connections were closed.
_DYING_S = 0.5


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


class Limits(NamedTuple):
    """Seconds until a rank counts as stalled in its loop, its neighbour as dead, a wait of the user's code as endless.

    ``wait_s`` None: this rank runs no code but ours, whose waits have marks, or last as long as a model loads.
    """

    stall_s: float
    dead_s: float
    wait_s: float | None = None


def start(report: RankReport, stall_s: float, dead_s: float, wait_s: float | None = None) -> Launcher:
    """Watch this process until it ends, and return what started it. Call it once, on the main thread.

    A step that takes more than ``stall_s`` seconds will not end: ranks wait for each other in it. The same limit holds
    for what the loop does between two steps. A rank whose heartbeat is ``dead_s`` seconds late is dead; if its node is
    dead too, nothing else reports that for a long time. ``wait_s``: how long the user's own code may stay in one wait
    for other ranks; None if there is none. Time in which this process was stopped does not count.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handler = partial(_ring, writer)
    signal.signal(signal.SIGTERM, handler)
    # A process that the user's code forks has the same pipe: a TERM for that is not for this rank.
    in_child = partial(_let_be_terminated, handler)
    os.register_at_fork(before=_hold_term, after_in_parent=_take_term, after_in_child=in_child)
    launcher = Launcher(os.getppid(), _parent_of(os.getppid()))
    # torchrun's workers lead sessions of their own and outlive torchrun when it is killed; the kernel tells us.
    with contextlib.suppress(OSError):  # we look for it, too
        signal_on_death_of_parent(signal.SIGTERM)
    watch = _Watch(report, reader, launcher, Limits(stall_s, dead_s, wait_s))
    threading.Thread(target=watch.run, name="vllm-hpc-watch", daemon=True).start()
    return launcher


def _ring(writer: int, number: int, *_: object) -> None:
    """The handler of SIGTERM, as long as the user's code sets none: for the watch, which reads it from its pipe.

    The C part has written it there, unless the user's code, as asyncio does, has taken the wake-up pipe's place.
    """
    with contextlib.suppress(OSError):
        os.write(writer, bytes([number]))


def _hold_term() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])


def _take_term() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])


def _let_be_terminated(handler: object) -> None:
    signal.set_wakeup_fd(-1)
    if signal.getsignal(signal.SIGTERM) is handler:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _take_term()


def record_error(report: RankReport, launcher: Launcher | None, error: BaseException) -> None:
    """Record that this rank dies of ``error``, or, if that is only an echo of it, of the loss of what started it.

    torchrun has the store of all ranks, and may be killed like them, also by the kernel, for memory.
    """
    lost = launcher.lost_soon(_DYING_S) if launcher and is_echo(error) else None
    if lost:
        report.terminated(RankError(LAUNCHER_LOST, lost, ""))
    else:
        report.failed(error)


class _Watch:
    """The thread beside a rank's work."""

    def __init__(self, report: RankReport, reader: int, launcher: Launcher, limits: Limits) -> None:
        self._report, self._reader, self._launcher, self._limits = report, reader, launcher, limits
        self._clock, self._in_mark, self._in_wait = AwakeClock(), Still(), Still()
        self._last_beat, self._failed_at = float("-inf"), float("inf")
        # A question is heard sooner where a small limit is to be held.
        self._beat_s = min(HEARTBEAT_S, max(_LOOK_S, limits.stall_s / 4))
        self._witness = Witness(report, has_program=limits.wait_s is not None)
        self._still_s, self._is_told = 0.0, False
        self._listener = Listener(report.job, report.attempt, report.here, (report.rank, self._examine))

    def run(self) -> None:
        """Watch until the rank has to end, and end it."""
        try:
            self._look_around()
        finally:  # without this thread nothing would answer TERM: end the rank instead
            with contextlib.suppress(Exception):
                kill_children()
            os._exit(128 + signal.SIGTERM)

    def _look_around(self) -> None:
        while True:
            now = self._clock.seconds()
            if self._beat(now) or self._is_stalled(now):
                return None
            if now - self._failed_at >= LINGER_S:
                return _leave(self._report, None)
            if self._rings(_LOOK_S):
                _let_it_die(self._launcher.pid)
            lost = self._launcher.lost()
            if lost or self._is_told:
                return _leave(self._report, lost)

    def _beat(self, now: float) -> bool:
        """Give a sign of life, and look for those of others, when it is time to; returns whether this rank must end."""
        if now - self._last_beat < self._beat_s:
            if self._listener.is_waiting:
                self._listener.listen()
            return False
        self._last_beat = now
        if _beat(self._report):
            self._failed_at = min(self._failed_at, now)
        elif self._report.has_silent_neighbour(self._limits.dead_s, now):
            self._leave_lost()
            return True
        self._listener.listen()
        return False

    def _is_stalled(self, now: float) -> bool:
        """Whether the rank has been too long at one place; then its end is recorded."""
        report, limits, mark = self._report, self._limits, self._report.mark
        view = self._witness.look()
        self._still_s = self._in_wait.seconds(_place(view), now)
        in_mark = self._in_mark.seconds(mark, now)
        if mark is not None and in_mark >= limits.stall_s + _LATER_S.get(mark.phase, 0.0):
            self._give_up(stall(mark, limits.stall_s))
            return True
        at = view.collective
        if mark is not None or at is None or at.operation in _LONG_WAITS or report.doing in _LOADS:
            return False
        if limits.wait_s is None or self._still_s < limits.wait_s:
            return False
        self._give_up(endless(at, limits.wait_s))
        return True

    def _give_up(self, error: TimeoutError) -> None:
        """Ask where all others are, log where every thread is, and end the rank."""
        found = hang.explain(self._report, self._listener, str(error), lambda: self._rings(_ASK_S))
        error = type(error)(_with_found(str(error), found))
        with contextlib.suppress(OSError):
            print(f"vllm-hpc: {error}", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
        with contextlib.suppress(OSError):
            if found and found.kind in OUTSIDE:  # no row is to be suspected
                self._report.terminated(RankError("PeerLost", str(error), ""))
            else:
                self._report.failed(error)
        self._report.on_leave()

    def _leave_lost(self) -> None:
        """Leave, for a neighbour gives no sign of life."""
        why = f"rank {self._report.neighbour} has shown no sign of life for {self._limits.dead_s:g} s"
        found = hang.explain(self._report, self._listener, why, lambda: self._rings(_ASK_S))
        _leave(self._report, _with_found(why, found), "PeerLost")

    def _examine(self) -> RankView:
        return self._witness.examine(self._still_s)

    def _rings(self, seconds: float) -> bool:
        """Wait a moment; returns whether this rank was told to leave, then or before."""
        ready, _, _ = select.select([self._reader], [], [], seconds)
        self._is_told |= bool(ready) and signal.SIGTERM in os.read(self._reader, 64)
        return self._is_told


def _with_found(why: str, found: Hang | None) -> str:
    """Why a rank ends, and what it has found; of a rank alone its own log has that."""
    return f"{why}. {'; '.join(found.lines)}" if found and len(found.views) > 1 else why


def _place(view: RankView) -> object:
    """What stays the same as long as the main thread is in one wait. A loop over collectives changes their numbers."""
    return (view.stack, stacks.sequences()) if view.collective is not None else object()


def _beat(report: RankReport) -> bool:
    """Write a heartbeat, and return whether another rank has failed."""
    with contextlib.suppress(OSError):  # a full disk must not end the work here; the shards report it
        report.heartbeat()
    return report.others_have_failed()


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
