"""Faults that end attempts before a row is finished, and whether they are the machine's or a row's.

Where a compiler is missing or a driver is broken, every attempt ends in its first steps, whatever its rows are. So it
does with a row that kills the engine, if that is among the first ones. The two differ in one thing: the machine's fault
also ends a row that is not the user's. So after such an end the next attempt first runs a probe (engine/loop/probe.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_claimed, read_json
from vllm_hpc.jobfolder.records import Crash
from vllm_hpc.jobfolder.shards import has_result

# What differs between two starts: paths, and words with a digit (numbers, addresses, hashes, hosts).
_PATH = re.compile(r"(?:[\w.~-]*/)+[\w.+-]*")
_WITH_DIGIT = re.compile(r"\w*\d\w*")
# Characters that are compared: a compiler's whole output may follow.
_COMPARED = 300
# Errors that no row can cause, by type and by what they say: torch/_inductor/exc.py (2.13), triton's and FlashInfer's
# compilers, cudaGetErrorString (CUDA 13: 35, 46, 100, 200, 209, 214, 222, 802, 803), the dynamic loader.
_TYPES_OF_MACHINE = frozenset(
    {"InductorError", "CppCompileError", "CUDACompileError", "InvalidCxxCompiler", "TritonMissing"}
)
_SAID_BY_MACHINE = re.compile(
    r"failed to find c compiler|no working c\+\+ compiler|ninja build failed|ninja is required|could not find nvcc"
    r"|no such file or directory: '?([^'\n]*[/-])?(gcc|g\+\+|c\+\+|cc|clang(\+\+)?|nvcc|ninja|ptxas|ld)(-[\d.]+)?('|$)"
    r"|driver version is insufficient|driver initialization failed|found no nvidia driver|no cuda-capable device"
    r"|cuda-capable device\(s\) is/are busy or unavailable|no kernel image is available|device kernel image is invalid"
    r"|unsupported toolchain|system not yet initialized|system has unsupported display driver"
    r"|uncorrectable ecc error|cannot open shared object file|undefined symbol|version `\w+[\d.]+' not found",
    re.IGNORECASE,
)
# Stands for the error of ranks that vanished without one: most likely they were killed from outside.
_LOST = Crash(-1, "", "")


class EarlyFault(msgspec.Struct, frozen=True):
    """What ended a replica before it had finished a row. ``in_probe``: no row of the user's was in it."""

    type: str
    message: str
    in_probe: bool

    def __str__(self) -> str:
        return f"{self.type}: {' '.join(self.message.split())[:_COMPARED]}"

    @property
    def is_told(self) -> bool:
        """Whether it is known what it was: an error, or a signal such as SIGILL."""
        return bool(self.type)

    @property
    def is_of_machine(self) -> bool:
        """Whether no row can be its cause: a compiler, a driver or a library is missing, or does not fit."""
        return self.type in _TYPES_OF_MACHINE or bool(_SAID_BY_MACHINE.search(self.message))

    def is_like(self, other: EarlyFault) -> bool:
        """Whether both are of the same type and say the same, but for numbers, addresses and paths."""
        return (self.type, normalized(self.message)) == (other.type, normalized(other.message))


def normalized(message: str) -> str:
    """The message without what differs between two starts on different nodes."""
    words = " ".join(_WITH_DIGIT.sub("#", _PATH.sub("PATH", message)).split())
    return words[:_COMPARED]


def has_died(folder: JobFolder, attempt: int) -> bool:
    """Whether an attempt failed by itself: it did not end normally, nor because it was told to."""
    ended = folder.exit_of(attempt)
    return ended is None or (ended.exit_code != 0 and ended.cause in ("exit", "requeue"))


def early_faults(folder: JobFolder, replicas: Iterable[int], attempt: int) -> list[EarlyFault]:
    """What ended an attempt on replicas that had begun, and not finished, a row. Empty if it did not end by itself."""
    if not has_died(folder, attempt):
        return []
    begun = ((replica, read_claimed(folder.claimed(replica, attempt))) for replica in replicas)
    in_probe = {replica: lines[-1].probe for replica, lines in begun if lines}
    crashes = {replica: crash for replica in in_probe if (crash := read_json(folder.crash(replica, attempt), Crash))}
    crashes = crashes or dict.fromkeys(in_probe, _LOST)
    return [
        EarlyFault(crash.type, crash.message, in_probe[replica])
        for replica, crash in crashes.items()
        if not has_result(folder.shard(replica, attempt))
    ]


def needs_probe(folder: JobFolder, replicas: Sequence[int], attempts: Sequence[int]) -> bool:
    """Whether the attempt after these, oldest first, begins with a probe: the last one ended before it finished a row.

    Attempts that never began a row, or were told to end before one was finished, are passed over. A probe that has
    raised is not run again: it may be what this model cannot do.
    """
    for attempt in reversed(attempts):
        found = early_faults(folder, replicas, attempt)
        if found or _has_finished_rows(folder, replicas, attempt):
            return bool(found) and not any(fault.in_probe and fault.is_told for fault in found)
    return False


def repeated_fault(
    folder: JobFolder, replicas: Sequence[int], attempts: Sequence[int], has_done: bool
) -> tuple[int, EarlyFault] | None:
    """The last attempt's fault if it is the machine's, and the earlier attempt that ended alike; None if not.

    It is the machine's if one of the two ended a probe; or if no row can cause it, and none of the job has a result
    (``has_done``): if some have, the others may need what is missing.
    """
    *earlier, last = attempts
    ours = [fault for fault in early_faults(folder, replicas, last) if fault.is_told]
    for attempt in reversed(earlier):
        for before in early_faults(folder, replicas, attempt):
            for fault in ours:
                is_sure = fault.in_probe or before.in_probe or (fault.is_of_machine and not has_done)
                if is_sure and fault.is_like(before):
                    return attempt, fault
        if _has_finished_rows(folder, replicas, attempt):
            break
    return None


def _has_finished_rows(folder: JobFolder, replicas: Sequence[int], attempt: int) -> bool:
    return any(has_result(folder.shard(replica, attempt)) for replica in replicas)
