"""RankPart: what a rank works with once it knows its place."""

from __future__ import annotations

from typing import NamedTuple

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.standing import Standing
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Place


class RankPart(NamedTuple):
    """One rank's part of the job. ``sync_s``: the most seconds between two fsyncs of finished rows."""

    job: JobFolder
    record: JobRecord
    standing: Standing
    place: Place
    report: RankReport
    sync_s: float
