"""A replica of several lanes over two nodes of a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import GREEDY, PROMPTS, check_complete, in_lanes, rehearsed_texts, submit_tiny

pytestmark = [pytest.mark.slurm, pytest.mark.full, pytest.mark.usefixtures("slurm")]
OVER_TWO = {"scheduler": "slurm", "nodes": 2, "attention_dp": 2}


def test_rehearsed_lanes_over_two_nodes(tmp_path: Path) -> None:
    job = submit_tiny(None, tmp_path, **in_lanes(**OVER_TWO, tp=2))
    check_complete(job, rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"])))
    assert [rank.host for rank in job.ranks()] == ["node1", "node1", "node2", "node2"]


@pytest.mark.vllm
@pytest.mark.parametrize("tp", [1, 2])
def test_lanes_over_two_nodes(mixture: Path, mixtures_answers: list[str], tmp_path: Path, tp: int) -> None:
    job = submit_tiny(mixture, tmp_path, **in_lanes(**OVER_TWO, tp=tp))
    check_complete(job, mixtures_answers)
    assert [rank.host for rank in job.ranks()] == ["node1"] * tp + ["node2"] * tp
