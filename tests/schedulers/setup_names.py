"""A line of a profile's setup that takes every name of lifecycle.sh's for something of the site's."""

from __future__ import annotations

from pathlib import Path

_NAMES = (
    "attempt", "cause", "drain_at", "drain_lead", "group", "job", "node", "nodes", "places", "requeues", "started",
    "task", "time_limit", "work",
)  # fmt: skip


def spoil_names(precious: Path) -> str:
    """The line; a file that is the site's is what it calls ``node_file``."""
    return " ".join([f"{name}=1" for name in _NAMES] + [f"node_file={precious}"])
