"""What is known of every rank of an attempt: its answer, or what its records say."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress

import msgspec

from vllm_hpc.jobfolder.debug_records import RankView
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import RankRecord


def complete(job: JobFolder, records: Iterable[RankRecord], answers: dict[int, RankView]) -> list[RankView]:
    """A view of each rank of these records. One that has ended since it answered has its outcome."""
    views = []
    newest = _newest_beat(job, records := list(records))
    for record in records:
        view = answers.get(record.rank)
        if view is None or view.attempt != record.attempt:
            view = _from_record(job, record, newest)
        views.append(msgspec.structs.replace(view, outcome=record.outcome))
    return views


def must_answer(records: Iterable[RankRecord]) -> set[int]:
    """The ranks that have not ended."""
    return {record.rank for record in records if record.outcome == "running"}


def _from_record(job: JobFolder, record: RankRecord, newest: float) -> RankView:
    beat = _beat(job, record.rank)
    silent_s = None if beat is None else round(max(0.0, newest - beat), 1)
    return RankView(
        rank=record.rank, attempt=record.attempt, host=record.host, pid=record.pid, source="records", at=time.time(),
        silent_s=silent_s,
    )  # fmt: skip


def _newest_beat(job: JobFolder, records: list[RankRecord]) -> float:
    """The time of the last heartbeat of all, by the file system's clock: this machine's may be another."""
    beats = [_beat(job, record.rank) for record in records]
    return max((beat for beat in beats if beat is not None), default=0.0)


def _beat(job: JobFolder, rank: int) -> float | None:
    with suppress(OSError):
        return job.heartbeat(rank).stat().st_mtime
    return None
