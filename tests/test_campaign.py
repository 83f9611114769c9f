"""Twelve kills at random, half of them in tests/slurm. ``python -m tests.campaign`` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.drive import Drive
from tests.campaign.settings import SETTINGS, draw
from tests.conftest import CAMPAIGN_SEED
from vllm_hpc.rows import Row

pytestmark = pytest.mark.vllm

KILLS, LIMIT_S = 3, 120


def check_kills(name: str, tiny: Path, expected: list[tuple[Row, str]], work: Path) -> None:
    """Kill a setting's job, and find every row once, with the undisturbed text."""
    setting = SETTINGS[name]
    print(f"seed {CAMPAIGN_SEED}")
    result = Drive(setting, draw(setting, KILLS, CAMPAIGN_SEED), tiny, expected, work, LIMIT_S).run()
    assert not result.problems, result
    assert len(result.kills) == KILLS


@pytest.mark.parametrize("name", ["local-tp2", "local-dp2"])
def test_kills_at_random(name: str, tiny: Path, expected: list[tuple[Row, str]], tmp_path: Path) -> None:
    check_kills(name, tiny, expected, tmp_path)
