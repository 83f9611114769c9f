"""A launcher from outside the package: one object and one entry point, used by a submit to a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.other_package import install_launcher
from tests.real_jobs import GREEDY, ONE_CORE, PROMPTS, check_complete, rehearsed_texts, submit_tiny

pytestmark = [pytest.mark.ranks, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def test_it_starts_the_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_launcher(tmp_path, monkeypatch)
    job = submit_tiny(None, tmp_path, scheduler="slurm", nodes=2, tp=2, env=ONE_CORE, launcher="siterun")
    check_complete(job, rehearsed_texts(PROMPTS, int(GREEDY["max_tokens"])))
    assert sorted((tmp_path / "wrapped").read_text().splitlines()) == ["0 python", "1 python"]
    assert "siterun --nodes=2 --ntasks=2" in (job.path / "script.sbatch").read_text()
