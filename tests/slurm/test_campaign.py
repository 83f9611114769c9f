"""Kills at random on a real Slurm: half of those that tests/local/test_campaign.py speaks of."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.local.test_campaign import check_kills
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


@pytest.mark.parametrize("name", ["slurm-dp2", "slurm-array2"])
def test_kills_at_random(name: str, subject: Path | None, expected: list[tuple[Row, str]], tmp_path: Path) -> None:
    check_kills(name, subject, expected, tmp_path)
