"""How fast a file system takes the small files of a job, whose names change in one step."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

from vllm_hpc.jobfolder.node_report import Writes
from vllm_hpc.spec.write_file import replacing

_TIMES = 8
_CONTENT = b"vllm-hpc\n" * 100


def time_writes(folder: Path) -> Writes:
    """Write, sync and rename a small file over another in ``folder`` some times, and remove it. Raises OSError."""
    file = folder / f".doctor-{os.urandom(6).hex()}"
    try:
        seconds = [_time(file) for _ in range(_TIMES)]
    finally:
        file.unlink(missing_ok=True)
    return Writes(round(statistics.median(seconds), 4), round(max(seconds), 4))


def _time(file: Path) -> float:
    began = time.perf_counter()
    with replacing(file) as out:
        out.write(_CONTENT)
        out.flush()
        os.fsync(out.fileno())
    return time.perf_counter() - began


def free_gib(folder: Path) -> float:
    """GiB that a user can still write there. Raises OSError."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize / (1 << 30)
