"""Secrets on Slurm, with and without the environment of the shell that submits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, ends_as
from tests.secret_jobs import check_hidden, check_seen, note_secrets, submit_with_secrets

pytestmark = [
    pytest.mark.admins,
    pytest.mark.ranks,
    pytest.mark.slurm,
    pytest.mark.full,
    pytest.mark.usefixtures("slurm"),
]


@pytest.mark.parametrize("profile", ["closed", "open"])
def test_on_slurm_ranks_have_them_whether_or_not_it_exports_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    note_secrets(tmp_path, monkeypatch)
    job = submit_with_secrets(tmp_path, "slurm", profile, nodes=2)
    assert job.folder.passed.exists() == (profile == "closed")
    ends_as(job, "COMPLETED", PATIENCE_S)
    check_seen(tmp_path, nodes=2)
    assert not job.folder.passed.exists()
    check_hidden(job)
