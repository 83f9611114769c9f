"""Segments of shared memory in /dev/shm, where every user of the machine may make files of any name."""

from __future__ import annotations

import glob
from contextlib import suppress
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")


def remove_segments(prefix: str) -> None:
    """Remove those whose names begin like that. Another user's stay: they must not end a job that cleans up."""
    for segment in SHARED_MEMORY.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            segment.unlink()
