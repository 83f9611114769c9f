"""Time in which this process ran: what stood still while this process was stopped says nothing about others.

A process is stopped by ``scontrol suspend``, by gang scheduling, by a debugger; a laptop sleeps. Then every file that
others write looks old at once, and every step looks long.
"""

from __future__ import annotations

import time

# A turn of the watch takes a second. One that takes this much longer does not count: the process was stopped in it, or
# a file system held it (and then holds its neighbours, too).
STOPPED_S = 15.0


class AwakeClock:
    """Counts seconds, except those in which the process was stopped. Ask it about every second."""

    def __init__(self) -> None:
        self._seconds, self._asked = 0.0, time.monotonic()

    def seconds(self) -> float:
        """Seconds since it was made. (The monotonic clock itself stands still while a machine sleeps.)"""
        now = time.monotonic()
        if now - self._asked < STOPPED_S:
            self._seconds += now - self._asked
        self._asked = now
        return self._seconds


class Still:
    """How long a value has been the same, as far as it was looked at."""

    def __init__(self) -> None:
        self._value: object = None
        self._since = 0.0

    def seconds(self, value: object, now: float) -> float:
        """Look at the value that it has ``now``."""
        if value != self._value:
            self._value, self._since = value, now
        return now - self._since
