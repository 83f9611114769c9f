"""Prints a log, on request as it grows; on a terminal with the job's progress below it."""

from __future__ import annotations

import codecs
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vllm_hpc.cli.output import print_raw, stdout_console
from vllm_hpc.cli.visible import visible_log
from vllm_hpc.spec.errors import FailedError
from vllm_hpc.spec.read_file import UnfitFileError, open_regular

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job

# Seconds between two reads of the folder, and between two queries of the scheduler, which all users share.
_POLL_S = 0.5
_ASK_S = 30.0
# Bytes of a log that are read at a time.
_PIECE = 1 << 20
# Characters of a line that has no end yet and is kept back.
_LINE = 1 << 16


def print_log(path: Path, job: Job, follow: bool) -> None:
    """Print a log; with ``follow`` until the job ends. Raises FailedError if it cannot be read."""
    from vllm_hpc.api.live import is_live

    if follow and is_live(sys.stdout):
        _print_above_bar(path, job)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")  # a library may print anything
    for content in _follow(path, job) if follow else _new_bytes(path, 0):
        print_raw(decoder.decode(content))


def _print_above_bar(path: Path, job: Job) -> None:
    """Whole lines only: what has no end yet would have the bar in its middle."""
    from vllm_hpc.api.terminal import Screen, bar
    from vllm_hpc.jobs.watch import watch

    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    screen, position, begun = Screen(stdout_console(), bar), 0, ""
    try:
        for view, pause in watch(job, ask_every_s=_ASK_S):
            for new in _new_bytes(path, position):
                position += len(new)
                lines, end, rest = (begun + decoder.decode(new)).rpartition("\n")
                begun = rest if len(rest) < _LINE else ""
                screen.print(visible_log(lines + end + ("" if begun else rest)))
            screen.show(view)
            if not view.status.is_final:
                time.sleep(min(pause, _POLL_S))
    finally:
        screen.close()
        print_raw(begun)


def _follow(path: Path, job: Job) -> Iterator[bytes]:
    """The file's new bytes as it grows, until the job has ended and everything was read."""
    position = 0
    for status, pause in job.statuses(ask_every_s=_ASK_S):
        for new in _new_bytes(path, position):
            position += len(new)
            yield new
        if not status.is_final:
            time.sleep(min(pause, _POLL_S))


def _new_bytes(path: Path, position: int) -> Iterator[bytes]:
    """What a log has from that position on, a piece at a time; nothing if there is no log yet. Raises FailedError."""
    try:
        with open_regular(path, follow_links=False) as file:
            file.seek(position)
            while new := file.read(_PIECE):
                yield new
    except FileNotFoundError:
        return
    except UnfitFileError as error:
        raise FailedError(f"{str(path)!r} cannot be read: {error.strerror}") from None
