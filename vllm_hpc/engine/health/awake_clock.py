"""Measures only the time in which this process ran, not the time in which it was stopped.

``scontrol suspend``, gang scheduling, a debugger or a laptop's sleep stop a process. Afterwards every file that others
write looks old, and every step looks long.
"""

from __future__ import annotations

import time

# The watchdog's loop takes a second per turn. A turn longer than this does not count: the process was stopped, or a
# file system blocked it (which then blocks its neighbours, too).
STOPPED_S = 15.0


class AwakeClock:
    """Counts seconds, except those in which the process was stopped. Read it about once a second."""

    def __init__(self) -> None:
        self._seconds, self._asked = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Seconds since it was created. (The monotonic clock itself stops while a machine sleeps.)"""
        now = time.monotonic()
        if now - self._asked < STOPPED_S:
            self._seconds += now - self._asked
        self._asked = now
        return self._seconds


class Still:
    """How long a value has stayed the same, as far as it was observed."""

    def __init__(self) -> None:
        self._value: object = None
        self._since = 0.0

    def seconds(self, value: object, now: float) -> float:
        """Observe the value at time ``now``; returns how long it has been the same."""
        if value != self._value:
            self._value, self._since = value, now
        return now - self._since
