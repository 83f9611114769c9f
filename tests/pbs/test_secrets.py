"""Secrets on PBS, which hands on nothing of the shell that submits."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pbs.test_layouts import MPIEXEC
from tests.real_jobs import PATIENCE_S, ends_as, wait_for
from tests.secret_jobs import check_hidden, check_seen, note_secrets, submit_with_secrets

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.pbs, pytest.mark.usefixtures("pbs")]


LAUNCHERS = ["pbsdsh", *(pytest.param(name, marks=pytest.mark.full) for name in ("pbs_tmrsh", "mpiexec"))]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_on_pbs_every_node_has_them_after_a_resubmission_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str
) -> None:
    client = tmp_path / "bin" / "mpiexec"
    client.parent.mkdir()
    client.write_text(MPIEXEC)
    client.chmod(0o755)
    note_secrets(tmp_path, monkeypatch, f"launcher = \"{launcher}\"\nsetup = ['export PATH={client.parent}:$PATH']\n")
    job = submit_with_secrets(tmp_path, "pbs", "open", nodes=2)
    assert job.folder.passed.stat().st_mode & 0o777 == 0o600
    wait_for(lambda: job.status().rows.done > 0, "rows are written")
    check_hidden(job)
    job.folder.drain_attempt(1).touch()
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert status.attempts == 2
    check_seen(tmp_path, nodes=4)
    assert not job.folder.passed.exists()
    check_hidden(job)
