"""Prints the trials of tune: a line for each when it begins and ends, and on a terminal a bar with its rows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from vllm_hpc.cli.console import make_console
from vllm_hpc.cli.output import say
from vllm_hpc.cli.visible import VisibleStream
from vllm_hpc.jobs.status import Status
from vllm_hpc.planner.tuned import Setting, Trial
from vllm_hpc.spec.words import rate


class Trials:
    """What is printed of trials, on stderr; ``progress`` is the bar of a terminal."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._task = progress, TaskID(0)

    def begin(self, setting: Setting, folder: Path) -> None:
        """Called when a trial was submitted."""
        self._line(f"{folder.name.replace('-', ' ')}, {setting}: runs as {folder}")
        if self._progress:
            self._task = self._progress.add_task("", total=None, state="")

    def look(self, status: Status) -> None:
        """Called with each status of it."""
        if self._progress:
            rows = status.rows
            self._progress.update(self._task, total=rows.total, completed=rows.done + rows.failed, state=status.state)

    def end(self, trial: Trial) -> None:
        """Called after it."""
        for task in self._progress.task_ids if self._progress else ():
            self._progress.remove_task(task)  # type: ignore[union-attr]
        speed = f"failed: {trial.why}" if trial.tokens_per_s is None else f"{rate(trial.tokens_per_s)} output tokens/s"
        aside = "" if trial.counts else " (the first run, which compiles: it does not count)"
        effect = f"; {trial.answers}" if trial.setting.changes and trial.counts and trial.tokens_per_s else ""
        self._line(f"{trial.setting}: {speed}{aside}{effect}")

    def _line(self, text: str) -> None:
        if self._progress:
            self._progress.console.print(Text(text))
        else:
            say(text, err=True)


@contextmanager
def following() -> Iterator[Trials]:
    """Print trials, with a bar if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield Trials(None)
        return
    console = make_console(file=sys.stderr.stream if isinstance(sys.stderr, VisibleStream) else sys.stderr)
    with Progress(
        TextColumn("{task.fields[state]}"), BarColumn(), MofNCompleteColumn(), TextColumn("rows"), TimeElapsedColumn(),
        console=console, transient=True,
    ) as progress:  # fmt: skip
        yield Trials(progress)
