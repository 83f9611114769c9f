"""A block of a site's own, a profile in /etc, a user's file and a project's on top, on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layered import check_layers

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.slurm, pytest.mark.usefixtures("slurm")]


def test_every_layer_reaches_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_layers(tmp_path, monkeypatch, "slurm", "slurm.sbatch.j2", "debug")
