"""Prints states and results for people.

rich and the readers of rows are imported where a table is drawn: a status is asked for again and again, by loops, too.
"""

from __future__ import annotations

import shlex
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_hpc.cli.output import say, say_state, stdout_console
from vllm_hpc.jobs.in_words import COLOURS
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration, rate

if TYPE_CHECKING:
    from rich.text import Text

    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.status import Status
    from vllm_hpc.jobs.summary import Summary
    from vllm_hpc.rows.row import Row

SAMPLES = 5


def exit_code(job: Job) -> int:
    """The exit code of a job that has ended: 0 completed, 3 with rows missing or in error, 1 otherwise."""
    return exit_code_of(job.status())


def exit_code_of(status: Status) -> int:
    """The same of its last status."""
    return {"COMPLETED": 0, "PARTIAL": 3}.get(status.state, 1)


def print_status(status: Status) -> None:
    """Print one job in a few lines."""
    line = "{:<9}  {}".format
    say(line("job", status.job))
    say_state(line("state", ""), status.state, COLOURS.get(status.state, "magenta"))
    if status.reason:
        say(line("", status.reason))
    if status.rehearsal:
        say(line("", "a rehearsal: the answers are not from a model"))
    if status.program:
        say(line("runs", status.program))
    if status.has_rows:
        say(line("rows", _rows(status)))
    if speed := rate(status.tokens_per_s or None):
        takes = duration(round(status.eta_s)) if status.eta_s is not None else ""
        say(line("speed", f"{speed} output tokens/s" + (f", {takes} to go" if takes else "")))
    attempts = counted(status.attempts, "attempt")
    say(line("scheduler", f"{status.scheduler} {status.job_id or '(no id)'}, {attempts}"))


def print_summary(summary: Summary) -> None:
    """Print one line with the counts and the path of the outputs."""
    if summary.state in ("PENDING", "RUNNING"):
        say(f"The job is still {summary.state}: collect again when it has ended.", err=True)
    if not summary.outputs:
        _print_ranks(summary)
        return
    rows = summary.rows
    bad = [f"{rows[kind]} {word}" for kind, word in (("failed", "with errors"), ("missing", "missing")) if rows[kind]]
    counts = f"{rows['done']} of {rows['total']} rows" + (f" ({', '.join(bad)})" if bad else "")
    fast = rate(summary.tokens_per_s or None)
    speed = f" ({fast} tokens/s while generating)" if fast else ""
    seconds = f" in {summary.seconds:.0f} s" if summary.seconds is not None else ""
    for what, count in summary.ignored.items():
        say(f"Note: {counted(count, 'line')} of the shards {'is' if count == 1 else 'are'} ignored: {what}", err=True)
    tokens = "rehearsed tokens" if summary.rehearsal else "output tokens"
    say(f"{counts}, {summary.completion_tokens} {tokens}{_left(summary)}{seconds}{speed}: {summary.outputs}")


def _print_ranks(summary: Summary) -> None:
    """The same for a job that runs no rows: how its ranks ended, and what they have left."""
    ok = sum(rank.outcome == "ok" for rank in summary.ranks)
    seconds = f" in {summary.seconds:.0f} s" if summary.seconds is not None else ""
    say(f"{ok} of {counted(len(summary.ranks), 'rank')} ended with 0{_left(summary)}{seconds}: {summary.job}")


def _left(summary: Summary) -> str:
    """What its program or script has left."""
    size = sum(one.bytes for one in summary.artefacts)
    return f", {counted(len(summary.artefacts), 'artefact')} ({size} bytes)" if summary.artefacts else ""


def print_failure(job: Job, state: str, reason: str) -> None:
    """Print one line on stderr: how a job ended, why, and where to look."""
    say(f"Error: {state}: {reason}; see: vllm-hpc logs {shlex.quote(str(job.path))}", err=True)


def wait_quietly(job: Job) -> dict[str, Any]:
    """Wait and collect; returns what ``submit --wait --json`` adds, the status and the summary."""
    from vllm_hpc.cli.watch import follow

    follow(job, None)
    return {"status": msgspec.to_builtins(job.status()), "summary": msgspec.to_builtins(job.collect())}


def wait_and_show(job: Job) -> int:
    """Wait with a progress bar, or a line per change; collect and show some answers. Returns the exit code."""
    from vllm_hpc.cli.watch import follow, shown_on_stderr

    follow(job, shown_on_stderr())
    status = job.status()
    summary = job.collect()
    if summary.rows["done"] + summary.rows["failed"]:
        _print_samples(job)
    if status.state not in ("COMPLETED", "PARTIAL"):
        print_failure(job, status.state, status.reason)
    print_summary(summary)
    if not status.has_rows:
        rank = next((end.rank for end in summary.ranks if end.error), 0)
        say(f"What it printed: vllm-hpc logs {shlex.quote(str(job.path))} --rank {rank}", err=True)
    return exit_code(job)


def _print_samples(job: Job) -> None:
    """Print the first rows, prompt and answer."""
    from rich.table import Table
    from rich.text import Text

    from vllm_hpc.jobfolder.input import iter_rows

    table = Table(box=None, pad_edge=False, show_header=True, header_style="bold")
    table.add_column("prompt", overflow="fold", ratio=1)
    table.add_column("answer", overflow="fold", ratio=2)
    for row, result in islice(zip(iter_rows(job.folder), job.results(), strict=False), SAMPLES):
        table.add_row(Text(one_line(_prompt(row))), _answer(result))
    stdout_console().print(table)


def _prompt(row: Row) -> str:
    from vllm_hpc.cli.print_rows import as_text

    if "messages" in row:
        return as_text(row["messages"][-1].get("content", ""))
    return str(row.get("prompt", ""))  # a row that cannot be run has none


def _answer(result: Row) -> Text:
    from rich.text import Text

    from vllm_hpc.cli.print_rows import answers

    name, text = answers(result)[0]
    return Text(one_line(text.strip()), style="red" if name == "error" else "")


def state_words(status: Status) -> Text:
    """The state in its colour."""
    from rich.text import Text

    return Text(status.state, style=COLOURS.get(status.state, "magenta"))


def _rows(status: Status) -> str:
    rows = status.rows
    return f"{rows.done} of {rows.total}" + (f", {rows.failed} with errors" if rows.failed else "")
