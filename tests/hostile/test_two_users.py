"""Two users of one machine: each test first shows that the attacker can plant the file, then that it does nothing."""

from __future__ import annotations

import json

import pytest

from tests.hostile.conftest import Neighbours

pytestmark = pytest.mark.trust


@pytest.mark.ranks
def test_job_in_project_folder_runs(neighbours: Neighbours) -> None:
    """A project's folder is setgid and its group may write; a job in it works as in any other."""
    victim, _, project = neighbours
    (victim.home / "rows.jsonl").write_text('{"prompt": "a"}\n' * 5)
    done = victim.vllm_hpc(
        "submit", "--rehearse", "--scheduler", "local", "--input", victim.home / "rows.jsonl", "--job-dir", project,
        "--name", "shared", "--wait", umask=0o002,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    status = victim.vllm_hpc("status", project / "shared", "--json")
    assert json.loads(status.stdout)["state"] == "COMPLETED"
