"""Numbers in sentences."""

from __future__ import annotations

from math import isfinite

# Three hundred years: a record may say anything.
_LONGEST_S = 1e10


def counted(number: int, noun: str) -> str:
    """A number of things: "1 row", "2 rows". For nouns whose plural adds an s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """A time in at most two units: "107 s", "12 min", "3 h 5 min", "2 d 4 h"; empty if it is none of a job."""
    if not isfinite(seconds) or abs(seconds) > _LONGEST_S:
        return ""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 or seconds == int(seconds) else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    big, small, names = (*divmod(minutes, 60), "h min") if minutes < 48 * 60 else (*divmod(minutes // 60, 24), "d h")
    one, two = names.split()
    return f"{big} {one} {small} {two}" if small else f"{big} {one}"
