"""Files that are swapped between the moment that they were checked and the one that they are used."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_hpc.jobs.submit import prepare

pytestmark = pytest.mark.trust

DEFINITION = 'rehearse = true\nscheduler = "slurm"\nname = "run"\n'
SECRET = "a private key"


@pytest.fixture
def definition(desk: Path) -> Path:
    """A colleague's job.toml, which they may swap for something else at any moment."""
    (desk / "theirs").mkdir()
    path = desk / "theirs" / "job.toml"
    path.write_text(DEFINITION)
    return path


def test_a_job_toml_that_became_a_link_is_not_copied(definition: Path, desk: Path) -> None:
    """It was opened again at submission, by its name: with links followed, and with no look at what is in it."""
    (desk / "id_rsa").write_text(SECRET)
    (desk / "id_rsa").chmod(0o600)
    prepared = prepare(str(definition.parent))
    definition.unlink()
    definition.symlink_to(desk / "id_rsa")
    assert definition.read_text() == SECRET
    job = prepared.submit()
    assert (job.path / "job.toml").read_text() == DEFINITION


def test_a_job_toml_that_became_a_pipe_keeps_nobody(definition: Path) -> None:
    prepared = prepare(str(definition.parent))
    definition.unlink()
    os.mkfifo(definition)
    assert (prepared.submit().path / "job.toml").read_text() == DEFINITION
