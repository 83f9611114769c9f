"""A job that is watched on a terminal: a bar of one line, or a picture with its replicas. 80 columns suffice."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, ClassVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from vllm_hpc.jobs.in_words import COLOURS
from vllm_hpc.jobs.watch import View, rows_of, speed_of
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration

if TYPE_CHECKING:
    from vllm_hpc.jobs.replica_status import ReplicaStatus
    from vllm_hpc.jobs.status import Status

# Of a picture: replicas and alarms that have a line of their own, and characters of a reason.
_REPLICAS, _ALARMS, _REASON = 8, 4, 300


def console_on(stream: object) -> Console:
    """A console that shows every text as it is: a name may have ``[red]`` or ``:x:``."""
    return Console(file=stream, highlight=False, markup=False, emoji=False)  # type: ignore[arg-type]  # a text stream


class Screen:
    """The last view of a job on a terminal, in place of the one before. What is printed meanwhile goes above it.

    Of several at a time, as where jobs are awaited together, only the first is seen: they would write over each other.
    """

    _seen: ClassVar[Screen | None] = None

    def __init__(self, console: Console, draw: Callable[[View], RenderableType], is_kept: bool = False) -> None:
        self._draw = draw
        self._console = console
        self._live = Live(console=console, refresh_per_second=4, transient=not is_kept)

    def show(self, view: View) -> None:
        """Show it."""
        if Screen._seen is None:
            Screen._seen = self
        if Screen._seen is self:
            self._live.start()  # only now: before there is something to show, the terminal stays as it is
            self._live.update(self._draw(view), refresh=True)

    def print(self, text: str) -> None:
        """Print lines above it, which the terminal may wrap."""
        if text:
            self._console.print(Text(text), end="", soft_wrap=True)

    def close(self) -> None:
        """Leave the terminal as it was, or with the last view if that is kept."""
        if Screen._seen is self:
            Screen._seen = None
            self._live.stop()


def bar(view: View) -> RenderableType:
    """One line: state, rows, speed, when it ends; and a line for each alarm."""
    status = view.status
    line = Table.grid(padding=(0, 1))
    cells: list[RenderableType] = [*_spinner(status), _state(status)]
    if status.has_rows:
        cells += [_progress(status, 20), Text(f"{status.rows.done + status.rows.failed:,}/{status.rows.total:,}")]
    failed = [f"{status.rows.failed:,} with errors"] if status.rows.failed else []
    rest = ", ".join([*failed, *(speed_of(view) or [one_line(status.reason)])])
    line.add_row(*cells, Text(rest, overflow="ellipsis", no_wrap=True))
    return Group(line, *_alarms(view))


def picture(view: View) -> RenderableType:
    """All of it: where it is, what it does, how far it is, what is wrong, and its replicas, the worst first."""
    status = view.status
    head = Text(one_line(view.name, 160), style="bold", overflow="fold")
    about = [f"{status.scheduler} {one_line(status.job_id or '(no id)', 60)}", counted(status.attempts, "attempt")]
    if status.model and not status.rehearsal:
        about.insert(0, one_line(status.model, 100))
    if status.created_at:
        about.append(f"submitted {duration(round(time.time() - status.created_at))} ago")
    if status.rehearsal:
        about.append("a rehearsal")
    lines: list[RenderableType] = [head, Text(", ".join(about), style="dim", overflow="fold"), _doing(status)]
    if status.has_rows:
        line = Table.grid(padding=(0, 1))
        line.add_row(_progress(status, 32), Text(rows_of(status)))
        lines.append(line)
    if words := speed_of(view):
        lines.append(Text(", ".join(words), style="red" if "after the walltime" in view.fit else ""))
    return Group(*lines, *_alarms(view), *_replicas(view.replicas))


def _doing(status: Status) -> RenderableType:
    line = Table.grid(padding=(0, 1))
    line.add_row(*_spinner(status), _state(status), Text(one_line(status.reason, _REASON), overflow="fold"))
    return line


def _spinner(status: Status) -> list[RenderableType]:
    """A sign that somebody still looks."""
    return [] if status.is_final else [Spinner("line")]


def _state(status: Status) -> Text:
    return Text(status.state, style=COLOURS.get(status.state, "magenta"), no_wrap=True)


def _progress(status: Status, width: int) -> ProgressBar:
    rows = status.rows
    return ProgressBar(total=max(rows.total, 1), completed=rows.done + rows.failed, width=width)


def _alarms(view: View) -> Iterable[RenderableType]:
    for alarm in view.alarms[:_ALARMS]:
        yield Text(f"! {one_line(alarm, 150)}", style="red")
    if more := view.alarms[_ALARMS:]:
        yield Text(f"! and {counted(len(more), 'more alarm')}", style="red")


def _replicas(replicas: tuple[ReplicaStatus, ...]) -> Iterable[RenderableType]:
    """A line for each of the worst, and one for all others."""
    if len(replicas) < 2:
        return
    shown = replicas if len(replicas) <= _REPLICAS + 1 else replicas[:_REPLICAS]
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("replica", "rows", "errors", "tokens/s", "running", "KV cache", "watts"):
        table.add_column(title, justify="right", no_wrap=True)
    for one in shown:
        table.add_row(*_cells(one), style="red" if one.running == 0 else "")
    yield table
    rest = replicas[len(shown) :]
    if rest:
        rates = [one.tokens_per_s for one in rest if one.tokens_per_s is not None]
        speeds = f", of {min(rates):,.0f} to {max(rates):,.0f} tokens/s" if rates else ""
        yield Text(f"and {counted(len(rest), 'other replica')}{speeds}", style="dim")


def _cells(one: ReplicaStatus) -> list[str]:
    running = "" if one.running is None else str(one.running)
    most = f"/{one.most_running}" if running and one.most_running else ""
    return [
        str(one.replica),
        f"{one.done:,}",
        f"{one.failed:,}" if one.failed else "",
        "" if one.tokens_per_s is None else f"{one.tokens_per_s:,.0f}",
        running + most,
        "" if one.kv is None else f"{one.kv:.0%}",
        "" if one.watts is None else f"{one.watts:,.0f}",
    ]
