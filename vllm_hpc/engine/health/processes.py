"""What the kernel tells of a process and its connections; and stacks of one that cannot answer.

A process that does not run cannot say where it is. So each rank's watchdog keeps the last place in memory that other
processes of the same user can read, stopped or not; and each rank has a handler that writes its stacks without Python.
"""

from __future__ import annotations

import faulthandler
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.debug_records import RankView
from vllm_hpc.spec.read_file import read_regular

# Real-time signals are nobody's: torchrun, Slurm, submitit and users' scripts take USR1 and USR2, Python INT, glibc the
# first two of these. Their default ends a process: so it is sent only to one that has a handler.
DUMP_SIGNAL = signal.SIGRTMIN + 9
_SIGHT, _STACKS = "vllm-hpc-sight", "vllm-hpc-stacks"
# Two places that are written in turn: a process that is stopped while it writes one has the other.
_SLOT = 1 << 17
_DUMP_S, _PYSPY_S, _LASTING_S = 2.0, 10.0, 1.0
_ESTABLISHED, _RETRANSMITS, _MANY = "01", "01", 3
_MOST_NATIVE = 1 << 16


class Sight:
    """This process's last place, for others of its node to read. Create it once."""

    def __init__(self) -> None:
        self._sight, self._turn = -1, 0
        with suppress(OSError):  # a kernel or container without memfd: then only this process tells where it is
            stacks = os.memfd_create(_STACKS, os.MFD_CLOEXEC)
            faulthandler.register(DUMP_SIGNAL, file=stacks, all_threads=True, chain=False)
            self._sight = os.memfd_create(_SIGHT, os.MFD_CLOEXEC)

    def keep(self, view: RankView) -> None:
        """Replace the older of the two that are kept."""
        self._turn = 1 - self._turn
        if self._sight >= 0:
            os.pwrite(self._sight, msgspec.json.encode(view)[: _SLOT - 1] + b"\n", self._turn * _SLOT)


def last_sight(pid: int) -> RankView | None:
    """What another process kept last; None if it is no rank, or not this user's."""
    memory = _memory_of(pid, _SIGHT)
    if memory is None:
        return None
    found = []
    with suppress(OSError):
        content = read_regular(memory)
        for slot in (content[:_SLOT], content[_SLOT:]):
            with suppress(msgspec.DecodeError):
                found.append(msgspec.json.decode(slot.split(b"\n")[0], type=RankView))
    return max(found, key=lambda view: view.at, default=None)


def dump_of(pid: int) -> str:
    """The stacks that another rank's handler writes; empty if it has none, or is stopped."""
    memory = _memory_of(pid, _STACKS)
    if memory is None or not has_handler(pid) or state_of(pid)[0] in ("T", "t", "Z", "gone"):
        return ""
    try:
        before = len(read_regular(memory))
        os.kill(pid, DUMP_SIGNAL)
        until, text = time.monotonic() + _DUMP_S, b""
        while time.monotonic() < until:
            time.sleep(0.05)
            now = read_regular(memory)[before:]
            if now and now == text:  # it has ended
                break
            text = now
    except OSError:
        return ""
    return text.decode(errors="replace")


def has_handler(pid: int, number: int = DUMP_SIGNAL) -> bool:
    """Whether a process catches that signal, so that it does not end by it."""
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)", _proc(pid, "status"), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def state_of(pid: int) -> tuple[str, str]:
    """The kernel's letter for a process, and its function that it waits in; "gone" if there is none.

    D only if it lasts: every process waits for a disk now and then.
    """
    until = time.monotonic() + _LASTING_S
    while (found := _state_now(pid))[0] == "D" and time.monotonic() < until:
        time.sleep(_LASTING_S / 10)
    return found


def _state_now(pid: int) -> tuple[str, str]:
    match = re.match(r"\d+ \(.*\) (\S)", _proc(pid, "stat"), re.DOTALL)
    if match is None:
        return "gone", ""
    waits_in = _proc(pid, "wchan").strip()
    return match[1], "" if waits_in in ("", "0") else waits_in


def native_stacks(pid: int) -> str:
    """What py-spy sees of a process, if it is installed and allowed to look; else empty."""
    program = shutil.which("py-spy")
    if program is None:
        return ""
    argv = [program, "dump", "--nonblocking", "--pid", str(pid)]
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(argv, capture_output=True, timeout=_PYSPY_S, stdin=subprocess.DEVNULL)
        return done.stdout[:_MOST_NATIVE].decode(errors="replace") if done.returncode == 0 else ""
    return ""


def unreached() -> tuple[str, ...]:
    """Addresses that do not acknowledge what this process has sent, and the head's if it cannot be connected to."""
    found = set(_unacknowledged())
    if os.environ.get("GROUP_RANK", "0") != "0":
        found |= set(_head_unreached())
    return tuple(sorted(found))


def _unacknowledged() -> Iterator[str]:
    sockets = _own_sockets()
    for name in ("tcp", "tcp6"):
        for line in _proc(os.getpid(), f"net/{name}").splitlines()[1:]:
            words = line.split()
            if len(words) < 10 or words[3] != _ESTABLISHED or words[9] not in sockets:
                continue
            if words[5].startswith(f"{_RETRANSMITS}:") and int(words[6], 16) >= _MANY:
                yield _address(words[2].split(":")[0])


def _own_sockets() -> set[str]:
    found = set()
    with suppress(OSError):
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                    found.add(match[1])
    return found


def _address(digits: str) -> str:
    """An address of /proc/net/tcp: words of 32 bits, each in the machine's order."""
    packed = b"".join(bytes.fromhex(digits[at : at + 8])[::-1] for at in range(0, len(digits), 8))
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed)
    text = socket.inet_ntop(socket.AF_INET6, packed)
    return text.removeprefix("::ffff:")


def _head_unreached() -> list[str]:
    """The head's address, if a connection to the job's store there finds no way. A refusal is an answer, too."""
    host, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
    if not host or not port.isdecimal():
        return []
    try:
        where = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][4]
    except OSError:
        return []
    try:
        socket.create_connection((str(where[0]), int(port)), 2.0).close()
    except ConnectionRefusedError:
        return []
    except OSError:
        return [str(where[0])]
    return []


def _memory_of(pid: int, name: str) -> Path | None:
    """A file in another process's memory, by its name."""
    with suppress(OSError):
        for entry in (Path("/proc") / str(pid) / "fd").iterdir():
            with suppress(OSError):
                if str(entry.readlink()).startswith(f"/memfd:{name}"):
                    return entry
    return None


def _proc(pid: int, name: str) -> str:
    try:
        return read_regular(Path("/proc") / str(pid) / name).decode(errors="replace")
    except OSError:
        return ""
