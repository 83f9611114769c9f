"""Waits for the jobs of a sweep, and shows them meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from vllm_hpc.api import live
from vllm_hpc.api.live import in_a_line, in_notebook
from vllm_hpc.jobs.drawn_lists import Statuses

if TYPE_CHECKING:
    from vllm_hpc.api.sweep import Sweep

# Seconds between two looks, at first and at most.
_FIRST_S, _MOST_S = 0.3, 5.0


def wait_for_all(sweep: Sweep, timeout: float | None, progress: bool | None) -> Statuses:
    """Wait for the end of all jobs. Raises TimeoutError after ``timeout`` seconds, JobNotFoundError if one is gone."""
    try:
        if sweep.is_one_job and not in_notebook():  # it has a bar of its own
            return Statuses([live.wait(sweep[0].job, timeout, progress)])
        return _wait(sweep, timeout, progress)
    except KeyboardInterrupt:
        raise in_a_line(KeyboardInterrupt(f"the jobs of {sweep.name} continue: sweep.wait()")) from None


def _wait(sweep: Sweep, timeout: float | None, progress: bool | None) -> Statuses:
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    show, pause = _shower(sweep, progress), _FIRST_S
    while True:
        statuses = sweep.status()
        show(sweep)
        for job, status in zip(sweep.jobs, statuses, strict=True):
            if status.awaits_resubmission or not status.scheduler:
                job.status()  # which submits it, or says why it cannot be read
        running = [status for status in statuses if not status.is_final]
        if not running:
            return statuses
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(
                f"{len(running)} of {len(statuses)} jobs of {sweep.name} have not ended after {timeout:g} s"
            )
        time.sleep(min(pause, left))
        pause = min(pause * 1.3, _MOST_S)


def _shower(sweep: Sweep, progress: bool | None) -> Callable[[Sweep], None]:
    """What shows the jobs: a card, lines, or nothing."""
    if progress is False:
        return lambda _: None
    if in_notebook():
        handle: Any = import_module("IPython.display").display(sweep, display_id=True)
        return lambda one: handle.update(one)
    return _lines() if progress or sys.stderr.isatty() else lambda _: None


def _lines() -> Callable[[Sweep], None]:
    last = ""

    def show(sweep: Sweep) -> None:
        nonlocal last
        line = repr(sweep)
        if line != last:
            with suppress(OSError, ValueError):  # nobody reads it any more
                print(line, file=sys.stderr, flush=True)
        last = line

    return show
