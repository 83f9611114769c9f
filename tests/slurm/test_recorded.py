"""A job that 0.1 put into the queue begins when its vllm-hpc was replaced, and runs to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recorded import check_queued

pytestmark = [pytest.mark.ranks, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def test_a_queued_job_of_before_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_queued("slurm", ["sbatch", "--parsable"], tmp_path, monkeypatch)
