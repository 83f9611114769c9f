"""What prctl(2) sets for this process: its name, what tells of its parent's death, and that it takes orphans."""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress

# linux/prctl.h
_SET_PDEATHSIG, _SET_NAME, _SET_CHILD_SUBREAPER = 1, 15, 36
# Bytes of a process's name, as ps -e and top show it.
_LONGEST_NAME = 15


def signal_on_death_of_parent(number: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it dies. Raises OSError."""
    _prctl(_SET_PDEATHSIG, int(number))


def take_orphans(wanted: bool = True) -> None:
    """Become the parent of descendants whose own parent has ended, or of no further ones. Raises OSError."""
    _prctl(_SET_CHILD_SUBREAPER, int(wanted))


def name_process(name: str) -> None:
    """Set the name of this process, cut after 15 bytes; where the system forbids it, it keeps its own."""
    with suppress(OSError):
        _prctl(_SET_NAME, ctypes.create_string_buffer(name.encode()[:_LONGEST_NAME]))


def _prctl(option: int, value: int | ctypes.Array[ctypes.c_char]) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(code := ctypes.get_errno(), f"prctl({option}): {os.strerror(code)}")
