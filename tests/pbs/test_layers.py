"""A block of a site's own, a profile in /etc, a user's file and a project's on top, on PBS."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.layered import check_layers

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.pbs, pytest.mark.usefixtures("pbs")]


def test_every_layer_reaches_every_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_layers(tmp_path, monkeypatch, "pbs", "pbs.sh.j2", "workq")
