"""A program that drives the engine itself: its ``run(ctx)``, instead of the rank loop."""

from __future__ import annotations

from vllm_hpc.engine.rank_part import RankPart


def drive(part: RankPart) -> None:
    """Run this rank's part of a program with ``run``. Raises whatever it raises."""
    raise NotImplementedError
