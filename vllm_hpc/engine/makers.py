"""Which maker makes a rank's engine: vLLM's, or a rehearsal's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vllm_hpc.engine.loop.suspect_rows import earlier_attempts
from vllm_hpc.engine.rank_part import RankPart

if TYPE_CHECKING:
    from vllm_hpc.engine.interface import EngineMaker


def engine_maker(part: RankPart) -> EngineMaker:
    """The maker of the engine that the job asks for. Call it before torch is imported."""
    job, record, standing, place, *_ = part
    if record.request.rehearse:
        from vllm_hpc.engine.rehearsal.engine import RehearsalMaker

        needs_first = record.request.rehearse_set.fault_s is not None
        is_first = needs_first and not earlier_attempts(job, standing.task, standing.attempt)
        return RehearsalMaker(record, standing, place, is_first)
    from vllm_hpc.engine.vllm_engine import VllmMaker

    return VllmMaker(record, standing, place)
