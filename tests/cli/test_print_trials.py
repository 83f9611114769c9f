"""What tune prints of its trials: numbered lines in a pipe, the rows of each on a terminal."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.progress import Progress

from tests.crafted import make_job
from vllm_hpc.cli.console import make_console
from vllm_hpc.cli.print_trials import Trials, following
from vllm_hpc.jobs.status import read_status
from vllm_hpc.planner.tuned import Setting, Trial

pytestmark = pytest.mark.notebooks
SETTING = Setting(tp=2, pp=1, dp=1)


def test_trials_are_numbered_lines_in_a_pipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = read_status(make_job(tmp_path / "job", rows=3))
    with following() as told:
        for number in (1, 2):
            told.begin(SETTING, tmp_path / f"trial-{number}")
            told.look(status)
            told.end(Trial(setting=SETTING, tokens_per_s=1234.5, counts=number > 1))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"trial 1, {SETTING}: runs as {tmp_path}/trial-1",
        f"{SETTING}: 1,234 output tokens/s (the first run, which compiles: it does not count)",
        f"trial 2, {SETTING}: runs as {tmp_path}/trial-2",
        f"{SETTING}: 1,234 output tokens/s",
    ]


def test_a_terminal_shows_the_rows_of_the_trial(tmp_path: Path) -> None:
    console = make_console(file=io.StringIO(), width=80, force_terminal=True)
    with Progress(console=console) as progress:
        told = Trials(progress)
        told.begin(SETTING, tmp_path / "trial-1")
        told.look(read_status(make_job(tmp_path / "job", rows=3)))
        (task,) = progress.tasks
        assert (task.total, task.completed) == (3, 0)
        told.end(Trial(setting=SETTING, tokens_per_s=None, why="it \x1b[2J failed"))
        assert progress.tasks == []
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "trial 1, " in printed
    assert "failed: it \ufffd[2J failed" in printed
