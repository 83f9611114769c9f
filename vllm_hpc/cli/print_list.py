"""Prints a list of jobs as a table that leaves whole what one must copy, the names and the ids, however narrow."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from vllm_hpc.cli.output import print_json, say, stdout_console
from vllm_hpc.cli.print_status import state_words
from vllm_hpc.spec.words import age, counted, in_bytes, rate

if TYPE_CHECKING:
    from vllm_hpc.jobs.disk_use import DiskUse
    from vllm_hpc.jobs.status import Status

# Between two columns; and the longest name that makes the others wait for it, of the width.
_GAP, _NAME_SHARE = 2, 0.45
# What a column may shrink to, and which go first if the terminal is still too narrow.
_LEAST_MODEL = 10
_DROPPED = ("model", "tokens/s", "files", "size", "age", "rows")
_TO_THE_RIGHT = ("age", "tokens/s", "size", "files")


class ListedJob(NamedTuple):
    """A line: ``name`` is what to give as JOB; ``use`` what it takes on the disk, if that was asked for."""

    name: str
    status: Status
    use: DiskUse | None = None


def print_list(statuses: list[Status], job_dir: str, as_json: bool) -> None:
    """Print all jobs of a folder, the newest first; as JSON the oldest first."""
    listed = [ListedJob(Path(status.job).name, status) for status in statuses]
    print_listed(listed, as_json, f"No jobs under {job_dir!r}.")


def print_listed(jobs: Sequence[ListedJob], as_json: bool, if_none: str) -> None:
    """The same of jobs that were chosen, given with the oldest first."""
    if as_json:
        print_json([_as_json(job) for job in jobs])
    elif not jobs:
        say(if_none, err=True)
    else:
        console = stdout_console()
        for line in table(list(reversed(jobs)), console.width):
            console.print(line, soft_wrap=True)
        sys.stdout.flush()


def _as_json(job: ListedJob) -> object:
    found = msgspec.to_builtins(job.status)
    return found if job.use is None else {**found, "bytes": job.use.bytes, "files": job.use.files}


def table(jobs: list[ListedJob], width: int) -> list[Text]:
    """The lines of the table. A name too long for its column has a line of its own, before the rest."""
    now = time.time()
    rows = [_cells(job, now) for job in jobs]
    titles = [title for title in rows[0] if title in ("job", "state") or any(row[title] for row in rows)]
    fixed = {title: _widest(title, rows) for title in titles}
    longest = max(len("job"), int(width * _NAME_SHARE))
    fixed["job"] = max([len("job"), *(size for row in rows if (size := cell_len(row["job"])) <= longest)])
    for title in ("", *_DROPPED):
        fixed.pop(title, None)
        over = sum(fixed.values()) + _GAP * (len(fixed) - 1) - width
        if over > 0 and fixed.get("model", 0) - over >= _LEAST_MODEL:
            fixed["model"] -= over
            over = 0
        if over <= 0:
            break
    found = [_line({title: title for title in fixed}, fixed, "bold")]
    for job, row in zip(jobs, rows, strict=True):
        if cell_len(row["job"]) > fixed["job"]:
            found.append(Text(row["job"]))
            row = {**row, "job": ""}
        found.append(_line(row, fixed, "", job))
    return found


def _cells(job: ListedJob, now: float) -> dict[str, str]:
    status, use = job.status, job.use
    rows, model = status.rows, "" if status.model is None or status.rehearsal else status.model.rstrip("/")
    counts = f"{rows.done}/{rows.total}" + (f", {counted(rows.failed, 'error')}" if rows.failed else "")
    name = job.name + (" (rehearsal)" if status.rehearsal else "")
    found = {
        "job": name,
        "age": "" if status.created_at is None else age(now - status.created_at),
        "model": model.rsplit("/", 1)[-1],
        "state": status.state,
        "rows": counts if status.has_rows and status.scheduler else status.program or "",
        "tokens/s": rate(status.tokens_per_s or None),
        "size": "" if use is None else in_bytes(use.bytes),
        "files": "" if use is None else str(use.files),
        "id": status.job_id or "",
    }
    return {title: _one_line(text) for title, text in found.items()}


def _one_line(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _widest(title: str, rows: list[dict[str, str]]) -> int:
    return max([len(title), *(cell_len(row[title]) for row in rows)])


def _line(row: dict[str, str], widths: dict[str, int], style: str, job: ListedJob | None = None) -> Text:
    line = Text(style=style)
    is_unreadable = job is not None and not job.status.scheduler
    for title, width in widths.items():
        if line:
            line.append(" " * _GAP)
        if title == "state" and job is not None:
            line.append_text(state_words(job.status))
            line.append(" " * (width - cell_len(job.status.state)))
            if is_unreadable:
                line.append(" " * _GAP + _one_line(job.status.reason))
                break
        else:
            line.append(_fitted(row[title], width, title in _TO_THE_RIGHT))
    line.rstrip()
    return line


def _fitted(text: str, width: int, to_the_right: bool) -> str:
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…"
    return " " * (width - size) + text if to_the_right else text + " " * (width - size)
