"""Numbers, times and texts as a page shows them."""

from __future__ import annotations

import re
import time

from vllm_hpc.spec.visible import BEYOND_ASCII, REPLACEMENT

# What no HTML may have, and what would set the direction of the text after it.
_CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f{BEYOND_ASCII}\ud800-\udfff\ufffe\uffff]")

_STEPS = (
    *(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30),  # seconds
    *(60 * minutes for minutes in (1, 2, 5, 10, 15, 30)),
    *(3600 * hours for hours in (1, 2, 3, 6, 12, 24, 48, 120)),
)


def shown(text: str) -> str:
    """A text without what a page, or a terminal that prints it, would obey."""
    return _CONTROL.sub(REPLACEMENT, text)


def seconds(value: float) -> str:
    """A time span: 0.42 s, 43 s, 12 min 5 s, 3 h 20 min, 2 d 4 h."""
    if value < 10:
        return f"{value:.2g} s"
    if value < 100:
        return f"{value:.0f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    days, hours = divmod(hours, 24)
    return f"{days:,} d" + (f" {hours} h" if hours else "")


def short_seconds(value: float) -> str:
    """The same in one unit, for an axis: 43 s, 12.5 min, 3.3 h."""
    for size, unit in ((172_800, "d"), (7200, "h"), (100, "min")):
        if value >= size:
            return f"{value / {'d': 86400, 'h': 3600, 'min': 60}[unit]:.3g} {unit}"
    return seconds(value) if value else "0 s"


def round_step(span: float, most: int) -> float:
    """Seconds between the marks of an axis over that time: a round time, so that there are at most so many."""
    least = span / most
    if least > 432_000:
        return 86_400.0 * -(-least // 86_400)
    return next(step for step in _STEPS if step >= least)


def number(value: float | None, unit: str = "") -> str:
    """A number with its unit; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def percent(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.3g} %"


def moment(at: float) -> str:
    """A time by the clock here; as it is, if a record says one that no clock has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
    except (OverflowError, ValueError, OSError):
        return f"{at:g} s"
