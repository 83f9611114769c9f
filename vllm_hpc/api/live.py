"""Waits for a job before somebody's eyes: a card in a notebook, a bar on a terminal, lines in a pipe.

In a notebook the card of a cell is updated in its place. IPython is never imported here: where a notebook runs, it is.
"""

from __future__ import annotations

import asyncio
import contextvars
import os
import shlex
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from msgspec.structs import asdict

from vllm_hpc.api.errors import in_python
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.watch import Lines, View, watch
from vllm_hpc.spec.errors import VllmHpcError
from vllm_hpc.spec.job_dir import default_job_dir
from vllm_hpc.spec.values import as_path
from vllm_hpc.spec.visible import visible

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator


class Shown(Protocol):
    """Where views are shown."""

    def show(self, view: View) -> None:
        """Show the newest view."""

    def close(self) -> None:
        """Show no more."""


@in_python
def attach(job: str | int | os.PathLike[str], job_dir: str | None = None) -> Job:
    """Find a job, as ``find_job`` does, and in a notebook watch it: a card follows it until its end.

    Raises JobNotFoundError.
    """
    found = find_job(job, job_dir)
    found.folder.job()
    if in_notebook():
        found = _Followed(found.path)
        # The card belongs to the cell that runs now, which ipykernel keeps in the context.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(_watch_on, found), name="vllm-hpc attach", daemon=True).start()
    return found


def wait(job: Job, timeout: float | None = None, progress: bool | None = None) -> Status:
    """``Job.wait``."""
    shown = place(job, progress)
    try:
        return _beside(shown, follow(job, shown, timeout))
    except KeyboardInterrupt:
        raise in_a_line(KeyboardInterrupt(goes_on(job))) from None


async def wait_async(job: Job) -> Status:
    """``await job``. Raises asyncio.CancelledError, with words, if the task is cancelled."""
    shown, looks = place(job), watch(job)
    try:
        with _cancelled_by_interrupt():
            while True:
                view, pause = await asyncio.to_thread(next, looks)
                shown.show(view)
                if view.status.is_final:
                    return _beside(shown, view.status)
                await asyncio.sleep(pause)
    except asyncio.CancelledError:
        raise in_a_line(asyncio.CancelledError(goes_on(job))) from None
    finally:
        shown.close()


@contextmanager
def _cancelled_by_interrupt() -> Iterator[None]:
    """Have Ctrl-C cancel the task that waits, where it would stop the loop under it: in IPython on a terminal.

    ``asyncio.run`` and kernels of notebooks have handlers of their own.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    is_own = threading.current_thread() is threading.main_thread()
    if task is None or not is_own or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, lambda *_: loop.call_soon_threadsafe(task.cancel))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def follow(job: Job, shown: Shown, timeout: float | None = None, look_s: float | None = None) -> Status:
    """Show views until the job ends, and return its final status. Raises TimeoutError.

    ``look_s``: seconds between two looks at the folder, at most.
    """
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    try:
        for view, pause in watch(job):
            shown.show(view)
            if view.status.is_final:
                break
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{job.path.name} is still {view.status.state} after {timeout:g} s; {goes_on(job)}")
            time.sleep(min(pause, look_s or pause, left))
    finally:
        shown.close()
    return view.status


def goes_on(job: Job, python: str = "job.wait(), or ") -> str:
    """What to tell whoever no longer waits."""
    return f"the job continues: {python}vllm-hpc watch {shlex.quote(_known_as(job))}"


def in_a_line(error: BaseException) -> BaseException:
    """The error as IPython shows it in a line: where a wait was interrupted helps nobody.

    It keeps its class, by which ``asyncio.timeout`` knows its own.
    """
    vars(error)["_render_traceback_"] = lambda: [f"Interrupted: {error}"]
    return error


def place(job: Job, progress: bool | None = None) -> Shown:
    """Where to show a job: a notebook's cell, a terminal, or stderr; None: only if somebody looks."""
    if progress is False:
        return Nowhere()
    if in_notebook():
        return _Card(job)
    if is_live(sys.stderr):
        from vllm_hpc.api.terminal import Screen, bar, console_on

        return Screen(console_on(sys.stderr), bar)
    return Printed(lambda line: print(visible(line), file=sys.stderr, flush=True)) if progress else Nowhere()


def is_live(stream: TextIO | None) -> bool:
    """Whether a picture on it can be drawn again in its place."""
    return stream is not None and stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


class Nowhere:
    """Shows nothing."""

    def show(self, view: View) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class Printed:
    """Prints a line for each change."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._lines = say, Lines()

    def show(self, view: View) -> None:
        """Print what is new."""
        for line in self._lines.new(view):
            self._say(line)

    def close(self) -> None:
        """Nothing: its lines stay."""


class _Card:
    """A card in the cell that runs, updated in its place."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._handle: Any = None

    def show(self, view: View) -> None:
        """Draw it, or draw it again."""
        from vllm_hpc.api.live_card import html, text

        bundle = {"text/plain": text(view), "text/html": html(self._job, view)}
        if self._handle is None:
            self._handle = import_module("IPython.display").display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def close(self) -> None:
        """Nothing: the last card stays."""


class _Followed(Job):
    """A job which a card follows in the cell that attached it: as the value of that cell it is only a line."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._cell = _cell()

    def _repr_html_(self) -> str | None:  # type: ignore[override]  # IPython takes None for none
        return None if _cell() == self._cell else super()._repr_html_()

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        if _cell() == self._cell:
            return {"text/plain": repr(self)}
        return super()._repr_mimebundle_(include, exclude)


class _InWords(Status, frozen=True):
    """A status below the card that shows it: a second card would say the same."""

    _repr_html_ = None  # type: ignore[assignment]  # IPython takes it for none

    def _repr_mimebundle_(
        self, include: Container[str] | None = None, exclude: Container[str] | None = None
    ) -> dict[str, str]:
        return {"text/plain": repr(self)}


def _beside(shown: Shown, status: Status) -> Status:
    return _InWords(**asdict(status)) if isinstance(shown, _Card) else status


def _watch_on(job: Job) -> None:
    """Watch until the end; what goes wrong here is said where somebody asks the job."""
    with suppress(VllmHpcError, OSError):
        follow(job, _Card(job))


def in_notebook() -> bool:
    """Whether the code runs in the kernel of a notebook: IPython on a terminal has none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return getattr(shell, "kernel", None) is not None


def _cell() -> int:
    """The number of the cell that runs: IPython counts them, and shows the value of one before it counts on."""
    return int(getattr(import_module("IPython").get_ipython(), "execution_count", 0))


def _known_as(job: Job) -> str:
    """The shortest word by which ``vllm-hpc watch`` finds it here."""
    with suppress(VllmHpcError, OSError):
        if as_path(default_job_dir(), "--job-dir").absolute() / job.path.name == job.path:
            return job.path.name
    return str(job.path)
