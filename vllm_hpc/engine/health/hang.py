"""What a rank finds out before it ends a job that hangs: where all the others are, and whom they wait for."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from vllm_hpc.engine.health.inquiry import Listener
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.jobfolder.debug_records import DebugFiles, Hang
from vllm_hpc.jobfolder.debug_views import complete, must_answer
from vllm_hpc.jobfolder.judge_hang import judge
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import RankRecord

# Seconds for the answers: ranks hear a question within five, and others of their node answer for them two later.
ANSWERS_S = 10.0


def explain(report: RankReport, listener: Listener, why: str, pauses: Callable[[], bool]) -> Hang | None:
    """Ask all ranks of this attempt, and write state/hang-<k>.json, unless another rank has: then return that one.

    ``pauses`` waits for a moment, and says whether this rank was told to leave meanwhile. None: nothing was found.
    """
    files = DebugFiles(report.job)
    with suppress(OSError):  # a full disk must not keep the rank from ending
        hang = _ask(report, listener, files, why, pauses)
        if other := files.read_hang(report.attempt):
            return other
        write_json(files.hang(report.attempt), hang)
        return hang
    return None


def _ask(report: RankReport, listener: Listener, files: DebugFiles, why: str, pauses: Callable[[], bool]) -> Hang:
    number = files.ask()
    until = time.monotonic() + ANSWERS_S
    while True:
        listener.listen()
        records = _records(report)
        wanted = must_answer(records)
        answers = files.read(number, wanted)
        if wanted <= answers.keys() or time.monotonic() >= until or pauses():
            break
    views = complete(report.job, records, answers)
    verdict = judge(views)
    return Hang(
        attempt=report.attempt, found_by=report.rank, why=why, at=time.time(), lines=verdict.lines, kind=verdict.kind,
        odd=verdict.odd, views=tuple(views),
    )  # fmt: skip


def _records(report: RankReport) -> list[RankRecord]:
    """Those of this attempt's ranks that have begun."""
    found = report.job.records_of(report.world)
    return [record for record in found if record.attempt == report.attempt]
