"""A job, its status and its summary in a line each: what ``repr`` says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePath
from typing import TYPE_CHECKING

from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration

if TYPE_CHECKING:
    from vllm_hpc.jobfolder.folder import JobFolder
    from vllm_hpc.jobfolder.records import RankRecord
    from vllm_hpc.jobs.status import Status
    from vllm_hpc.jobs.summary import Summary

MOST_LINES = 20  # of the repr of a list
# Of states, on a terminal; others are magenta.
COLOURS = {"COMPLETED": "green", "RUNNING": "cyan", "PENDING": "yellow", "FAILED": "red", "TIMEOUT": "red"}


def name_of(job: str) -> str:
    """The name of a job's folder."""
    return one_line(PurePath(job).name or job, 80)


def describe_status(status: Status) -> str:
    """Its name, state and rows, and the seconds left: ``first: RUNNING 125/300, ETA 107 s``."""
    return f"{name_of(status.job)}: {describe_state(status)}"


def describe_state(status: Status) -> str:
    """The same without the name."""
    if not status.scheduler:  # it cannot be read
        return f"{status.state}, {one_line(status.reason, 160)}"
    words = [str(status.state)]
    if status.has_rows:
        failed = f" ({status.rows.failed} with errors)" if status.rows.failed else ""
        words = [f"{status.state} {status.rows.done + status.rows.failed}/{status.rows.total}{failed}"]
    if status.state == "RUNNING" and status.eta_s is not None and (takes := duration(status.eta_s)):
        words.append(f"ETA {takes}")
    if status.rehearsal:
        words.append("a rehearsal")
    return ", ".join(words)


def look(folder: JobFolder) -> Status:
    """The status of a job as it can be seen, with nothing submitted; of one that cannot be read, why."""
    from vllm_hpc.jobs.status import read_statuses, unreadable

    try:
        status = read_statuses([folder])[0]
    except ValueError as error:  # a NUL in the path
        return unreadable(folder, str(error))
    if not status.scheduler and not os.path.lexists(folder.path):
        return unreadable(folder, "its folder has gone: it was moved or removed")
    return status


def describe_summary(summary: Summary) -> str:
    """Name, state, rows, tokens and seconds of a summary."""
    words = [f"{name_of(summary.job)}: {one_line(summary.state, 20)}"]
    if summary.outputs:
        rows = summary.rows
        words[0] += f" {rows.get('done', 0)}/{rows.get('total', 0)}"
        words += [f"{rows[kind]} {word}" for kind, word in _KINDS if rows.get(kind)]
        words.append(f"{summary.completion_tokens} output tokens")
    else:
        ended = sum(rank.outcome == "ok" for rank in summary.ranks)
        words.append(f"{ended} of {counted(len(summary.ranks), 'rank')} ended with 0")
    if summary.seconds is not None:
        words.append(duration(summary.seconds))
    return ", ".join(words)


_KINDS = (("failed", "with errors"), ("missing", "missing"))


def describe_rank(rank: RankRecord) -> str:
    """Where a rank ran and how it ended."""
    error = f": {one_line(f'{rank.error.type}: {rank.error.message}', 100)}" if rank.error else ""
    where = f"rank {rank.rank} on {one_line(rank.host, 60)}, {one_line(rank.device, 40)}"
    return f"{where}: {one_line(rank.outcome, 40)}{error}"


def lines_of(title: str, lines: Iterable[str]) -> str:
    """A title, and a line for each; of many the first and the last, and how many are between."""
    lines = list(lines)
    if len(lines) > MOST_LINES:
        half = MOST_LINES // 2
        lines = [*lines[:half], f"... {len(lines) - 2 * half} more ...", *lines[-half:]]
    return "\n  ".join([f"{title}:" if lines else title, *lines])
