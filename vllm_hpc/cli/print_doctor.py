"""Prints what doctor found: a line for each finding, one for all nodes that found the same."""

from __future__ import annotations

from vllm_hpc.cli.output import say
from vllm_hpc.doctor.finding import Finding

_MOST_NODES = 4


def print_findings(findings: list[Finding]) -> None:
    """``ok``, ``warn``, ``fail`` or ``skip``, the check, what it found, and after an arrow what to do."""
    nodes: dict[tuple[str, str, str, str], list[str]] = {}
    for one in findings:
        nodes.setdefault((one.status, one.check, one.found, one.advice), []).extend([one.node] if one.node else [])
    for (status, check, found, advice), names in nodes.items():
        where = f"{_named(names)}: " if names else ""
        say(f"{status:4}  {check:10}  {where}{found}{f' -> {advice}' if advice else ''}")


def _named(names: list[str]) -> str:
    more = len(names) - _MOST_NODES
    return ", ".join(names[:_MOST_NODES]) + (f" and {more} more" if more > 0 else "")
