"""What a rank finds out before it ends a job that hangs: where all the others are, and whom they wait for."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from vllm_hpc.engine.health.inquiry import Listener
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.health.stacks import gave_up_at
from vllm_hpc.jobfolder.debug_records import DebugFiles, Hang, RankView
from vllm_hpc.jobfolder.debug_views import complete, must_answer
from vllm_hpc.jobfolder.judge_hang import judge
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.spec.write_file import open_new

# Seconds for the answers: ranks hear a question within five, and others of their node answer for them two later. Who is
# not the one to ask waits a little longer for what that one finds.
ANSWERS_S, _MORE_S, _PAUSE_S = 10.0, 5.0, 0.2
# Of the odd ranks, and of the others, how many views are kept, and how many with their side threads: of thousands, most
# are alike, and what reads the record takes a few MiB.
_MOST_KEPT, _WITH_THREADS = 64, 8


Pauses = Callable[[], bool]


def explain(report: RankReport, listener: Listener | None, why: str, pauses: Pauses) -> Hang | None:
    """Ask all ranks of this attempt, and write state/hang-<k>.json; or wait for it, if another rank asks already.

    ``listener`` answers for this rank; None if another thread does. ``pauses`` waits for a moment, and says whether
    this rank was told to leave meanwhile. None: nothing was found.
    """
    files = DebugFiles(report.job)
    with suppress(Exception):  # neither a full disk nor an odd process may keep the rank from ending
        try:
            open_new(files.finding(report.attempt), 0o644).close()
        except FileExistsError:
            return _wait(report, listener, files, pauses)
        hang = _ask(report, listener, files, why, pauses)
        write_json(files.hang(report.attempt), hang)
        return hang
    return None


def explain_timeout(report: RankReport, error: TimeoutError) -> None:
    """Add to what the user's code has raised, as ``ctx.barrier`` does, where the others are."""
    report.gave_up = gave_up_at(error)
    if report.gave_up is None:
        return
    over = threading.Event()
    found = explain(report, None, str(error), lambda: over.wait(_PAUSE_S))
    if found:
        error.args = (f"{error}. {'; '.join(found.lines)}",)


def _wait(report: RankReport, listener: Listener | None, files: DebugFiles, pauses: Pauses) -> Hang | None:
    """What another rank has found, or is about to find: of thousands that stall at once, one reads all answers."""
    until = time.monotonic() + ANSWERS_S + _MORE_S
    while True:
        if listener:
            listener.listen()
        found = files.read_hang(report.attempt)
        if found or pauses() or time.monotonic() >= until:
            return found


def _ask(report: RankReport, listener: Listener | None, files: DebugFiles, why: str, pauses: Pauses) -> Hang:
    number = files.ask()
    wanted = must_answer(_records(report))
    answers: dict[int, RankView] = {}
    until = time.monotonic() + ANSWERS_S
    while True:
        if listener:
            listener.listen()
        answers |= files.read(number, wanted - answers.keys())
        if wanted <= answers.keys() or time.monotonic() >= until or pauses():
            break
    views = complete(report.job, _records(report), answers)
    verdict = judge(views)
    return Hang(
        attempt=report.attempt, found_by=report.rank, why=why, at=time.time(), lines=verdict.lines, kind=verdict.kind,
        odd=verdict.odd, views=_kept(views, verdict.odd),
    )  # fmt: skip


def _kept(views: Sequence[RankView], odd: Sequence[int]) -> tuple[RankView, ...]:
    """The odd ones, and some of the others; most without their side threads and py-spy's words."""
    first = [view for view in views if view.rank in odd][:_MOST_KEPT]
    others = [view for view in views if view.rank not in odd][:_MOST_KEPT]
    more = [msgspec.structs.replace(view, threads=(), native="") for view in (*first[_WITH_THREADS:], *others)]
    return (*first[:_WITH_THREADS], *more)


def _records(report: RankReport) -> list[RankRecord]:
    """Those of this attempt's ranks that have begun."""
    found = report.job.records_of(report.world)
    return [record for record in found if record.attempt == report.attempt]
