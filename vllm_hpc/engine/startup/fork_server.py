"""A process that imports vLLM once for all ranks of its node, and then forks them (forked_ranks.py asks it to).

The agent forks it as soon as it has imported torch itself, so the import goes on while the nodes meet. The ranks are
the agent's children, like those that torchrun starts: the process between them has ended, and the agent takes orphans.
vLLM forks its own engine's process after the import, too: by then nothing may have opened a device or left a thread.
"""

from __future__ import annotations

import atexit
import gc
import os
import runpy
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec

from vllm_hpc.spec.prctl import name_process, signal_on_death_of_parent

# Seconds within which the kernel has made the agent a forked rank's parent.
_ADOPTION_S = 10.0
# Open once a process uses a GPU; CUDA and HIP do not survive a fork. NVML alone opens others.
_DEVICES = ("/dev/nvidia-uvm", "/dev/kfd", "/dev/dri/", "/dev/dxg", "/dev/accel/")
# Bytes of what the import printed that each rank's log gets: the last ones.
_SAID = 1 << 16


class SharedImport(NamedTuple):
    """What a forked rank has of the import: its seconds, what it printed, and what it set.

    ``variables``: for each environment variable that it set, the value before (None: there was none) and after.
    """

    seconds: float
    said: str
    variables: dict[str, tuple[str | None, str]]

    def set_variables(self) -> None:
        """Set what the import has set, as it would have here: but for what this rank has set since."""
        for name, (before, after) in self.variables.items():
            if os.environ.get(name) == before:
                os.environ[name] = after


class RankRequest(NamedTuple):
    """A rank that the agent asks for: torchrun's words for it, and its environment as NAME=VALUE."""

    argv: list[bytes]
    environment: list[bytes]


_shared: SharedImport | None = None


def shared_import() -> SharedImport | None:
    """What this rank was forked with; None in one that imports vLLM itself."""
    return _shared


def serve(pipe: Connection, agent: int, ranks: int, import_all: Callable[[], None]) -> NoReturn:
    """Be the server of a node: import, say how that went, and fork the ranks that are asked for."""
    with suppress(OSError):
        signal_on_death_of_parent(signal.SIGKILL)
    if os.getppid() != agent:
        os._exit(1)
    name_process("vllm-import")
    _close_inherited()
    outputs, prefix = (os.dup(1), os.dup(2)), (sys.pycache_prefix, sys.dont_write_bytecode)
    shared, why = _import(import_all)
    sys.pycache_prefix, sys.dont_write_bytecode = prefix  # each rank finds its own (bytecode.py)
    pipe.send_bytes(why.encode(errors="replace")[:1000])
    gc.freeze()  # a collection would write to every page that the ranks share
    while not why and ranks:
        try:
            request = msgspec.msgpack.decode(pipe.recv_bytes(), type=RankRequest)
        except EOFError:
            break
        pid = _fork_twice()
        if pid == 0:
            pipe.close()
            _become_rank(request, agent, outputs, shared)
        pipe.send_bytes(str(pid).encode())
        ranks -= 1
    os._exit(0)


def _close_inherited() -> None:
    """Close what a program that is started anew would not have: what scripts and launchers handed on."""
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names
        with suppress(OSError):
            if int(entry) > 2 and os.get_inheritable(int(entry)):
                os.close(int(entry))


def _import(import_all: Callable[[], None]) -> tuple[SharedImport, str]:
    """Import with the output in a file; returns what the ranks get, and why they cannot be forked, if they cannot."""
    began, before = time.monotonic(), dict(os.environ)
    why, text = "", b""
    try:
        with tempfile.TemporaryFile() as said:
            for descriptor in (1, 2):
                os.dup2(said.fileno(), descriptor)
            import_all()
            flush()
            size = os.fstat(said.fileno()).st_size
            text = os.pread(said.fileno(), _SAID, max(0, size - _SAID))
        why = _why_not()
    except BaseException as error:  # noqa: BLE001 - each rank will meet it, and say it better
        why = f"{type(error).__name__}: {error}"
    changed = {name: (before.get(name), value) for name, value in os.environ.items() if before.get(name) != value}
    return SharedImport(round(time.monotonic() - began, 3), text.decode(errors="replace"), changed), why


def _why_not() -> str:
    """Why this process must not be forked any more: a device or a thread that is in use. Empty if it may."""
    if threading.active_count() > 1:
        return f"its import leaves threads: {', '.join(thread.name for thread in threading.enumerate())}"
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


def _become_rank(request: RankRequest, agent: int, outputs: tuple[int, int], shared: SharedImport) -> NoReturn:
    """Be what torchrun would have started: run that module, and end as Python ends a program."""
    global _shared
    code = 1
    try:
        _wait_for_parent(agent)
        for descriptor, output in enumerate(outputs, start=1):
            os.dup2(output, descriptor)
            os.close(output)
        os.environb.clear()
        for name, _, value in (entry.partition(b"=") for entry in request.environment):
            os.environb[name] = value
        name_process(f"vllm-rank-{os.environ.get('RANK', '')}")
        _be_a_process_of_ones_own()
        _shared = shared
        module, *words = [os.fsdecode(word) for word in request.argv[3:]]
        sys.argv = [module, *words]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if not isinstance(error.code, int | None):
            print(error.code, file=sys.stderr)
    except BaseException:  # noqa: BLE001 - as Python does
        traceback.print_exc()
    finally:
        with suppress(Exception):
            atexit._run_exitfuncs()
        flush()
        os._exit(code & 0xFF)


def _wait_for_parent(agent: int) -> None:
    """Wait until the agent is this process's parent. Raises TimeoutError: it has ended."""
    give_up = time.monotonic() + _ADOPTION_S
    while os.getppid() != agent:
        if time.monotonic() > give_up:
            raise TimeoutError("torchrun has ended")
        time.sleep(0.001)


def _be_a_process_of_ones_own() -> None:
    """Set what packages took from the environment, or drew, when the agent and the server imported them.

    OMP_NUM_THREADS, which torchrun may set after its import of torch, reaches torch's own threads, not numpy's.
    """
    import torch

    threads = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if threads.isdecimal() and int(threads) > 0:
        torch.set_num_threads(int(threads))
    if numpy_random := sys.modules.get("numpy.random"):
        numpy_random.seed()


def flush() -> None:
    """Write out what this process has printed, before a fork or its end."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # a full disk, or a closed stream
            stream.flush()
