"""Prints what checks found: a line for each finding, one for all nodes that found the same."""

from __future__ import annotations

from collections.abc import Iterable

from vllm_hpc.cli.output import say
from vllm_hpc.spec.finding import Finding

_MOST_PLACES = 4


def print_findings(findings: Iterable[Finding]) -> None:
    """``ok``, ``warn``, ``fail`` or ``skip``, the check, where, what it found, and after an arrow what to do."""
    places: dict[tuple[str, str, str, str], list[str]] = {}
    for one in findings:
        places.setdefault((one.status, one.check, one.found, one.advice), []).extend([one.where] if one.where else [])
    for (status, check, found, advice), names in places.items():
        where = f"{_named(names)}: " if names else ""
        say(f"{status:4}  {check:10}  {where}{found}{f' -> {advice}' if advice else ''}")


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_PLACES
    return ", ".join(names[:_MOST_PLACES]) + (f" and {more} more" if more > 0 else "")
