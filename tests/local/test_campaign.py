"""Twelve kills at random, half of them in tests/slurm. ``python -m tests.campaign`` has more.

``make test`` has them of rehearsals, and two of real vLLM; ``make test-full`` has all twelve of vLLM too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.campaign.drive import Drive
from tests.campaign.settings import SETTINGS, draw
from tests.conftest import CAMPAIGN_SEED
from vllm_hpc.rows.row import Row

KILLS, LIMIT_S = 3, 120


def check_kills(name: str, model: Path | None, expected: list[tuple[Row, str]], work: Path, kills: int = KILLS) -> None:
    """Kill a setting's job, and find every row once, with the undisturbed text."""
    setting = SETTINGS[name]
    print(f"seed {CAMPAIGN_SEED}")
    result = Drive(setting, draw(setting, kills, CAMPAIGN_SEED), model, expected, work, LIMIT_S).run()
    assert not result.problems, ("\n".join(result.problems), result)
    assert len(result.kills) == kills


@pytest.mark.parametrize("name", ["local-tp2", "local-dp2"])
def test_kills_at_random(name: str, subject: Path | None, expected: list[tuple[Row, str]], tmp_path: Path) -> None:
    check_kills(name, subject, expected, tmp_path)


@pytest.mark.vllm
def test_two_kills_of_vllm(tiny: Path, few_expected: list[tuple[Row, str]], tmp_path: Path) -> None:
    """Of fewer rows than the others, for vLLM is slow here."""
    check_kills("local-tp1", tiny, few_expected, tmp_path, kills=2)
