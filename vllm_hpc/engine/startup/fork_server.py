"""A process that imports vLLM once for all ranks of its node, and forks them: torchrun's agent would start each anew.

The agent forks it as soon as it has imported torch itself, so the import goes on while the nodes meet. Its ranks are
the agent's children, as those that torchrun starts: the process between them has ended, and the agent takes orphans.
vLLM forks its own engine's process after the import, too: nothing may have opened a device by then.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from vllm_hpc.spec.prctl import name_process, signal_on_death_of_parent, take_orphans

# Seconds for the import, as for the ranks of other nodes: a shared file system may be slow, but not for ever.
IMPORT_S = 600.0
# Seconds within which the kernel has made the agent a forked rank's parent.
_ADOPTION_S = 10.0
# Open once a process uses a GPU; CUDA and HIP do not survive a fork. NVML alone opens others.
_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/")
# Bytes of what the import prints that each rank's log gets.
_SAID = 1 << 16


class SharedImport(NamedTuple):
    """What a forked rank has of its server: what the import printed, and the seconds from its begin to the fork."""

    said: str
    seconds: float


class _Asked(NamedTuple):
    """A rank that the agent asks for: torchrun's words for it, and its environment as NAME=VALUE."""

    argv: list[bytes]
    environment: list[bytes]


_shared: SharedImport | None = None


def shared_import() -> SharedImport | None:
    """What this rank was forked with; None in one that imports vLLM itself."""
    return _shared


class RankProcess:
    """A forked rank as torchrun's agent uses it: the part of subprocess.Popen that it calls."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, once it has ended. Raises subprocess.TimeoutExpired."""
        import subprocess

        give_up = float("inf") if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() >= give_up:
                raise subprocess.TimeoutExpired(f"rank {self.pid}", timeout or 0.0)
            time.sleep(0.05)
        return code


class ForkServer:
    """The agent's side: asks for ranks. Where the server cannot, it says why once, and the agent starts them itself."""

    def __init__(self, pid: int, pipe: Connection, ranks: int) -> None:
        self._pid, self._pipe, self._left = pid, pipe, ranks
        self._is_ready = False

    def rank(self, argv: Sequence[str], environment: Mapping[str, str]) -> RankProcess | None:
        """Fork a rank that runs ``python -u -m MODULE WORD ...`` with that environment; None if that cannot be had."""
        if not self._left or tuple(argv[1:3]) != ("-u", "-m"):
            return None
        entries = [os.fsencode(f"{name}={value}") for name, value in environment.items()]
        try:
            if not self._is_ready:
                self._wait_until_ready()
            self._pipe.send_bytes(msgspec.msgpack.encode(_Asked([os.fsencode(word) for word in argv], entries)))
            found = RankProcess(int(self._pipe.recv_bytes()))
        except (OSError, EOFError, ValueError) as error:
            self._give_up(f"{type(error).__name__} {error}".strip())
            return None
        self._left -= 1
        if not self._left:
            self.close()
        return found

    def close(self) -> None:
        """Have the server end: it has forked all ranks, or none will be asked for."""
        self._left = 0
        self._pipe.close()
        with suppress(ChildProcessError):
            os.waitpid(self._pid, 0)

    def _wait_until_ready(self) -> None:
        if not self._pipe.poll(IMPORT_S):
            raise TimeoutError(f"the import took more than {IMPORT_S:g} s")
        if why := self._pipe.recv_bytes().decode():
            raise OSError(why)
        self._is_ready = True

    def _give_up(self, why: str) -> None:
        print(f"vllm-hpc: each rank imports vLLM itself: {why}", file=sys.stderr, flush=True)
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        self.close()


def start(ranks: int, work: Callable[[], None]) -> ForkServer | None:
    """Fork the server of this node, which begins with ``work``, the import. None where the system cannot.

    Call it while this process has one thread, and no socket: the server has all that is open here.
    """
    agent = os.getpid()
    ours, theirs = Pipe()
    try:
        take_orphans()
        pid = os.fork()
    except OSError:
        return None
    if pid == 0:
        try:
            ours.close()
            _serve(theirs, agent, ranks, work)
        finally:
            os._exit(1)
    theirs.close()
    return ForkServer(pid, ours, ranks)


def _serve(pipe: Connection, agent: int, ranks: int, work: Callable[[], None]) -> NoReturn:
    """Import, say how that went, and fork the ranks that are asked for."""
    _die_with(agent)
    name_process("vllm-import")
    began, prefix = time.monotonic(), (sys.pycache_prefix, sys.dont_write_bytecode)
    outputs, said = (os.dup(1), os.dup(2)), os.memfd_create("import")
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
    try:
        work()
        why = _why_not()
    except BaseException as error:  # noqa: BLE001 - each rank will meet it, and say it better
        why = f"{type(error).__name__}: {error}"
    sys.stdout.flush()
    sys.stderr.flush()
    pipe.send_bytes(why.encode(errors="replace")[:1000])
    gc.freeze()  # a collection would write to every page that the ranks share
    while not why and ranks:
        try:
            asked = msgspec.msgpack.decode(pipe.recv_bytes(), type=_Asked)
        except EOFError:
            break
        text = os.pread(said, _SAID, 0).decode(errors="replace")
        shared = SharedImport(text, round(time.monotonic() - began, 3))
        pid = _fork_twice()
        if pid == 0:
            pipe.close()
            sys.pycache_prefix, sys.dont_write_bytecode = prefix  # bytecode.py sets them again
            _become_rank(asked, agent, outputs, shared)
        pipe.send_bytes(str(pid).encode())
        ranks -= 1
    os._exit(0)


def _die_with(agent: int) -> None:
    """End when the agent does."""
    with suppress(OSError):
        signal_on_death_of_parent(signal.SIGKILL)
    if os.getppid() != agent:
        os._exit(1)


def _why_not() -> str:
    """Why this process must not be forked any more: a device is in use. Empty if it may."""
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = str(entry.readlink())
            if target.startswith(_DEVICES):
                return f"its import opens {target}"
    return ""


def _fork_twice() -> int:
    """Fork a leader of its own session whose parent has ended: the nearest one that takes orphans becomes that.

    Returns 0 in the child.
    """
    reader, writer = Pipe(duplex=False)
    middle = os.fork()
    if middle == 0:
        reader.close()
        if os.fork():
            os._exit(0)
        os.setsid()
        writer.send_bytes(str(os.getpid()).encode())
        writer.close()
        return 0
    writer.close()
    os.waitpid(middle, 0)
    with reader:
        return int(reader.recv_bytes())


def _become_rank(asked: _Asked, agent: int, outputs: tuple[int, int], shared: SharedImport) -> NoReturn:
    """Be what torchrun would have started: run that module, and end."""
    global _shared
    code = 1
    try:
        _wait_for_parent(agent)
        for descriptor, output in enumerate(outputs, start=1):
            os.dup2(output, descriptor)
            os.close(output)
        os.environb.clear()
        for name, _, value in (entry.partition(b"=") for entry in asked.environment):
            os.environb[name] = value
        name_process(f"vllm-rank-{os.environ.get('RANK', '')}")
        _set_threads()
        _shared = shared
        module, *words = [os.fsdecode(word) for word in asked.argv[3:]]
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:  # noqa: BLE001 - as Python ends a program
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
        os._exit(code)


def _wait_for_parent(agent: int) -> None:
    """Wait until the agent is this process's parent. Raises TimeoutError: it has ended."""
    give_up = time.monotonic() + _ADOPTION_S
    while os.getppid() != agent:
        if time.monotonic() > give_up:
            raise TimeoutError("torchrun has ended")
        time.sleep(0.001)


def _set_threads() -> None:
    """OMP_NUM_THREADS for torch, which was imported before torchrun may have set it."""
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))
