"""The folder of a rank's own for what a user's code leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_hpc.engine.programs.artefacts import make_artefacts
from vllm_hpc.jobfolder.folder import JobFolder

pytestmark = pytest.mark.programs


def test_each_attempt_finds_what_the_one_before_has_left(tmp_path: Path) -> None:
    job = JobFolder(tmp_path)
    folder = make_artefacts(job, 3)
    (folder / "state.pt").write_text("x")
    assert make_artefacts(job, 3) == folder == tmp_path / "artefacts" / "rank-3"
    assert (folder / "state.pt").exists()
    assert not folder.stat().st_mode & 0o022


@pytest.mark.parametrize("name", ["artefacts", "artefacts/rank-0"])
def test_a_link_in_its_place_is_refused(tmp_path: Path, name: str) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(elsewhere)
    with pytest.raises(OSError, match="it must be a folder, not a link or a file"):
        make_artefacts(JobFolder(tmp_path), 0)
    assert not list(elsewhere.iterdir())
