"""What is known to fail, until it is mended: (surface, or * for all; kind of complaint) -> what is missing."""

from __future__ import annotations

from tests.hostile.oracle import Complaint

_PENDING = {
    ("*", "escape"): "what is printed must have no escape sequences",
    ("secret", "secret"): "secrets must be known by their value",
    ("folder", "hang"): "records must be read without waiting: a FIFO",
    ("folder", "memory"): "records must be read up to a limit: a link to /dev/zero, a file of a terabyte",
    ("question", "hang"): "ranges of tasks must end with the job's",
    ("submission", "hang"): "ranges of tasks must end with the job's",
    ("question", "memory"): "ranges of tasks must end with the job's",
    ("submission", "memory"): "ranges of tasks must end with the job's",
    ("template", "hang"): "what a template prints must have a limit",
    ("template", "memory"): "what a template prints must have a limit",
}


def why_pending(surface: str, found: list[Complaint]) -> str | None:
    """Why these complaints are expected; None if one of them is not."""
    reasons = [_PENDING.get((surface, one.kind), _PENDING.get(("*", one.kind))) for one in found]
    return reasons[0] if reasons and all(reasons) else None
