"""Ranks that torchrun's agent has from a process which has imported vLLM for them (fork_server.py)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection

import msgspec
import psutil

from vllm_hpc.engine.startup.fork_server import RankRequest, flush, serve
from vllm_hpc.spec.prctl import take_orphans

# Seconds without any progress after which an import is given up: a shared file system may be slow, or gone.
STILL_S = 120.0
# Seconds after which the log says that the import goes on, and between two looks at it.
_TELL_S, _LOOK_S = 60.0, 5.0
# Seconds within which a killed server is gone.
_GONE_S = 2.0


class RankProcess:
    """A forked rank as torchrun's agent uses it: the part of subprocess.Popen that it calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:  # somebody else has reaped it: 0, as subprocess has it
                pid, status = self.pid, 0
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        give_up = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= give_up:
                raise subprocess.TimeoutExpired(f"rank {self.pid}", timeout or 0.0)
            time.sleep(0.05)
        return code

    def how_it_ended(self, within_s: float) -> str:
        """How it has ended, in words, if it does so within some seconds."""
        with suppress(subprocess.TimeoutExpired):
            code = self.wait(within_s)
            return f"been killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return "closed its pipe"


class ForkedRanks:
    """The agent's side: asks for ranks. Where the server cannot, it says why once, and the agent starts them anew."""

    def __init__(self, process: RankProcess, pipe: Connection, ranks: int) -> None:
        self._process, self._pipe, self._left = process, pipe, ranks
        self._is_ready = False

    def rank(self, argv: Sequence[str], environment: Mapping[str, str]) -> RankProcess | None:
        """Fork a rank that runs ``python -u -m MODULE WORD ...`` with that environment; None if that cannot be had."""
        if not self._left:
            return None
        entries = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        request = RankRequest([os.fsencode(word) for word in argv], entries)
        try:
            if not self._is_ready:
                self._wait_until_ready()
            self._pipe.send_bytes(msgspec.msgpack.encode(request))
            found = RankProcess(int(self._pipe.recv_bytes()))
        except EOFError:
            self._give_up(f"the process that did it for all has {self._process.how_it_ended(_GONE_S)}")
            return None
        except (OSError, ValueError) as error:
            self._give_up(str(error))
            return None
        self._left -= 1
        if not self._left:
            self.close()
        return found

    def close(self) -> None:
        """End the server: it has forked all ranks, which do not need it, or no more will be asked for."""
        if self._pipe.closed:
            return
        self._left = 0
        self._pipe.close()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel: nobody needs to wait for that
            self._process.wait(_GONE_S)
        with suppress(OSError):
            take_orphans(False)

    def _give_up(self, why: str) -> None:
        _tell(f"each rank imports vLLM itself: {why}")
        self.close()

    def _wait_until_ready(self) -> None:
        """Wait for the import for as long as it gets on. Raises OSError, EOFError."""
        began = moved = time.monotonic()
        before, is_told = _progress(self._process.pid), False
        while not self._pipe.poll(_LOOK_S if STILL_S > _LOOK_S else STILL_S):
            now, progress = time.monotonic(), _progress(self._process.pid)
            if progress != before:
                before, moved = progress, now
            if now - moved >= STILL_S:
                raise TimeoutError(f"the import got nowhere for {STILL_S:g} s")
            if now - began > _TELL_S and not is_told:
                is_told = True
                _tell(f"{os.uname().nodename} is still importing vLLM")
        if why := self._pipe.recv_bytes().decode():
            raise OSError(why)
        self._is_ready = True


def start(ranks: int, import_all: Callable[[], None]) -> ForkedRanks | None:
    """Fork the server of this node, which begins with ``import_all``. None where the system cannot.

    Call it while this process has one thread: the server has whatever is in use here.
    """
    agent = os.getpid()
    ours, theirs = Pipe()
    flush()
    try:
        take_orphans()
        pid = os.fork()
    except OSError:
        return None
    if pid == 0:
        try:
            ours.close()
            serve(theirs, agent, ranks, import_all)
        finally:
            os._exit(1)
    theirs.close()
    return ForkedRanks(RankProcess(pid), ours, ranks)


def _progress(pid: int) -> tuple[float, int]:
    """CPU seconds and read bytes of a process, which change as long as it imports."""
    with suppress(psutil.Error, OSError):
        process = psutil.Process(pid)
        times = process.cpu_times()
        return times.user + times.system, process.io_counters().read_chars
    return 0.0, 0


def _tell(line: str) -> None:
    print(f"vllm-hpc: {line}", file=sys.stderr, flush=True)
