"""Waiting before somebody's eyes: one card in a notebook, a bar on a terminal, lines in a pipe, and interrupts."""

from __future__ import annotations

import asyncio
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from rich.console import Console

import vllm_hpc
from tests.crafted import end, make_job, progress, result, start, write_lines
from vllm_hpc import Job
from vllm_hpc.api.live import place
from vllm_hpc.api.live_card import html
from vllm_hpc.api.terminal import Screen, bar, picture
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.replica_status import ReplicaStatus
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.task_states import State
from vllm_hpc.jobs.watch import View

pytestmark = pytest.mark.notebooks


class Cell:
    """What IPython shows of a cell: its cards, each with what it was updated to."""

    def __init__(self) -> None:
        self.cards: list[list[str]] = []
        self.is_final = threading.Event()

    def display(self, bundle: dict[str, str], raw: bool, display_id: bool) -> SimpleNamespace:
        assert raw and display_id
        shown: list[str] = []
        self.cards.append(shown)

        def update(bundle: dict[str, str], raw: bool) -> None:
            assert bundle["text/html"].startswith("<div")
            shown.append(bundle["text/plain"])
            if "COMPLETED" in shown[-1]:
                self.is_final.set()

        update(bundle, raw)
        return SimpleNamespace(update=update)


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    """A cell of a notebook that runs, without IPython."""
    found = Cell()
    shell = SimpleNamespace(kernel=object(), execution_count=1)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=found.display))
    return found


@pytest.fixture
def done(desk: Path) -> Job:
    """A job that has ended, ./runs/first."""
    folder = make_job(desk / "runs" / "first", 2)
    start(folder)
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    progress(folder, 2, tokens=6)
    end(folder)
    return Job(folder.path)


def status(folder: JobFolder, state: State, done: int = 0, **more: Any) -> Status:
    return Status(
        job=str(folder.path), job_id="77", scheduler="local", state=state, reason="why", rows=Rows(2, done), **more
    )


@pytest.fixture
def runs(done: Job, monkeypatch: pytest.MonkeyPatch) -> Job:
    """The same as if it ran while two looks are taken at it."""

    def statuses(self: Job, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        for number in range(2):
            yield status(self.folder, "RUNNING", number), 0.0
        yield status(self.folder, "COMPLETED", 2), 0.0

    monkeypatch.setattr(Job, "statuses", statuses)
    return done


def test_a_wait_updates_one_card(runs: Job, cell: Cell) -> None:
    found = runs.wait()
    assert found.state == "COMPLETED"
    lines = ["Job first: RUNNING 0/2", "Job first: RUNNING 1/2", "Job first: COMPLETED 2/2"]
    assert cell.cards == [lines]
    assert vars(type(found))["_repr_html_"] is None, "a second card would say the same"
    assert found._repr_mimebundle_() == {"text/plain": "Status first: COMPLETED 2/2"}

    async def main() -> Status:
        return await runs

    assert asyncio.run(main()) == found
    assert cell.cards == [lines, lines]
    runs.wait(progress=False)
    assert len(cell.cards) == 2


def test_attach_shows_a_card_that_ends_with_the_job(runs: Job, cell: Cell) -> None:
    assert vllm_hpc.attach("first").path == runs.path
    assert cell.is_final.wait(10)
    assert [lines[-1] for lines in cell.cards] == ["Job first: COMPLETED 2/2"]


@pytest.mark.throughput
def test_what_attach_returns_is_drawn_in_any_cell_but_its_own(runs: Job, cell: Cell) -> None:
    """There the card that follows the job is enough."""
    job = vllm_hpc.attach("first")
    assert cell.is_final.wait(10)
    drawn: Any = job._repr_html_()
    assert drawn is None
    assert job._repr_mimebundle_() == {"text/plain": repr(job)}
    sys.modules["IPython"].get_ipython().execution_count += 1
    assert "COMPLETED" in job._repr_html_()
    assert [*job._repr_mimebundle_()] == ["text/plain", "text/html"]


@pytest.mark.throughput
def test_nothing_in_a_card_that_is_redrawn_can_be_unfolded(done: Job) -> None:
    """It would fold at each update. The worst replicas come first, and are always shown."""
    running = status(done.folder, "RUNNING")
    for number, left in ((1, ""), (8, ""), (9, ""), (10, "2 more replicas"), (64, "56 more replicas")):
        replicas = tuple(ReplicaStatus(replica=100 + one, attempt=1, tokens_per_s=9.0) for one in range(number))
        shown = html(done, View(status=running, replicas=replicas, alarms=(), fit="", at=1.0))
        assert "<details" not in shown and ">100<" in shown
        assert ("more replicas" in shown) == bool(left) and left in shown
    ended = msgspec.structs.replace(running, state="COMPLETED", replicas=replicas)
    assert "<details" in html(done, View(status=ended, replicas=replicas, alarms=(), fit="", at=1.0))


def test_attach_in_a_script_returns_the_job(runs: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert vllm_hpc.attach("first").path == runs.path
    assert capsys.readouterr() == ("", "")
    with pytest.raises(vllm_hpc.JobNotFoundError, match=r"^no job 'second'"):
        vllm_hpc.attach("second")


def test_a_pipe_gets_lines_on_request(runs: Job, capsys: pytest.CaptureFixture[str]) -> None:
    assert runs.wait().state == "COMPLETED"
    assert capsys.readouterr() == ("", "")
    assert runs.wait(progress=True).state == "COMPLETED"
    assert capsys.readouterr() == ("", "RUNNING: why\n")


def test_an_interrupt_says_that_the_job_goes_on(done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses(self: Job, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        yield status(self.folder, "RUNNING"), 0.0
        raise KeyboardInterrupt

    monkeypatch.setattr(Job, "statuses", statuses)
    with pytest.raises(KeyboardInterrupt) as raised:
        done.wait()
    assert str(raised.value) == "the job continues: job.wait(), or vllm-hpc watch first"
    assert vars(raised.value)["_render_traceback_"]() == [f"Interrupted: {raised.value}"]
    assert raised.value.__suppress_context__
    monkeypatch.chdir("/")
    with pytest.raises(KeyboardInterrupt, match=rf"watch {done.path}$"):
        done.wait()


def test_a_wait_that_is_cancelled_leaves_the_job(done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses(self: Job, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        while True:
            yield status(self.folder, "RUNNING"), 60.0

    monkeypatch.setattr(Job, "statuses", statuses)

    async def main() -> None:
        async with asyncio.timeout(0.05):
            await done

    with pytest.raises(TimeoutError):
        asyncio.run(main())

    async def cancelled() -> None:
        async def wait() -> None:
            await done

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0.05)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError, match=r"^the job continues: job\.wait\(\), or vllm-hpc watch first$"):
        asyncio.run(cancelled())
    assert not done.folder.cancelled.exists()
    with pytest.raises(TimeoutError, match=r"^first is still RUNNING after 0 s; the job continues: job\.wait\(\)"):
        done.wait(timeout=0)


def test_an_interrupt_of_a_loop_without_a_handler_cancels_the_wait(done: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def statuses(self: Job, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        yield status(self.folder, "RUNNING"), 0.0
        os.kill(os.getpid(), signal.SIGINT)
        yield status(self.folder, "RUNNING"), 60.0

    monkeypatch.setattr(Job, "statuses", statuses)

    async def wait() -> None:
        await done

    loop = asyncio.new_event_loop()  # as IPython runs it on a terminal
    try:
        with pytest.raises(asyncio.CancelledError, match=r"^the job continues: "):
            loop.run_until_complete(wait())
    finally:
        loop.close()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_goes(runs: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    shown = place(runs)
    other = place(runs)
    for one in (shown, other):
        one.show(View(status=status(runs.folder, "RUNNING", 1, tokens_per_s=700.0)))
    written = terminal.getvalue()
    assert "1/2 700 tokens/s" in written
    assert written.count("RUNNING") == 1, "two bars would write over each other"
    shown.close()
    other.close()
    assert terminal.getvalue().endswith("\x1b[2K")
    assert Screen._seen is None


HOSTILE = "/runs/[red]:x:\x1b]52;c;x\x07\u202e" + "n" * 300


@pytest.mark.parametrize("draw", [bar, picture])
@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "FAILED", "COMPLETED", "UNKNOWN"])
def test_eighty_columns_suffice(draw: Any, state: State) -> None:
    replicas = tuple(
        ReplicaStatus(
            replica=number, attempt=9, done=10**9, failed=10**8, tokens_per_s=1e6, running=0 if number == 63 else 4096,
            most_running=4096, kv=1.0, watts=70000.0,
        )
        for number in range(64)
    )  # fmt: skip
    seen = Status(
        job=HOSTILE, job_id="9" * 50, scheduler="slurm", state=state, reason=f"{HOSTILE} " * 40, model=HOSTILE,
        rows=Rows(10**12, 10**11, 10**9), tokens_per_s=1e7, eta_s=1e9, attempts=9, created_at=0.0,
    )  # fmt: skip
    view = View(status=seen, replicas=replicas, alarms=(f"{HOSTILE} is idle",) * 9, fit="fits", at=1.0)
    out = io.StringIO()
    Console(file=out, width=80, markup=False, emoji=False, highlight=False).print(draw(view))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 40
    assert not {"\x1b", "\x07", "\u202e"} & set(out.getvalue())
    assert "! and 5 more alarms" in lines
    if draw is picture:
        assert "[red]:x:" in out.getvalue()
        assert "and 56 other replicas, of 1,000,000 to 1,000,000 tokens/s" in lines
