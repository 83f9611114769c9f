"""Secrets on this machine, where ranks inherit them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, ends_as
from tests.secret_jobs import check_hidden, check_seen, note_secrets, submit_with_secrets

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.full]


def test_on_this_machine_ranks_inherit_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_secrets(tmp_path, monkeypatch)
    job = submit_with_secrets(tmp_path, "local", "open")
    assert not job.folder.passed.exists()
    ends_as(job, "COMPLETED", PATIENCE_S)
    check_seen(tmp_path, nodes=1)
    check_hidden(job)
