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


def age(seconds: float) -> str:
    """A time since, for a narrow column: its largest unit: 45s, 12m, 3h, 9d."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{max(0, int(seconds))}s"


def in_bytes(count: float) -> str:
    """Bytes in the unit that fits: 17 B, 1.2 KiB, 30 GiB."""
    size, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if units[0] == "B" or size >= 10 else f"{size:.1f} {units[0]}"


def rate(per_second: float | None) -> str:
    """A speed without its unit, with a decimal where it matters: 7.3, 48.2, 1,234; empty if it is not known."""
    if per_second is None or not isfinite(per_second):
        return ""
    return f"{per_second:,.{1 if abs(per_second) < 99.95 else 0}f}"
