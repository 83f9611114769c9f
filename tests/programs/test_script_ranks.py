"""A script on two ranks of this machine: as torchrun would run it, and its end as the job's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.marks import needs_torch
from tests.programs.script_jobs import completed, log_of, submit_script

AS_IT_IS = Path(__file__).with_name("as_it_is.py")
pytestmark = [pytest.mark.programs, pytest.mark.ranks, needs_torch]


def test_a_script_runs_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, desk = tmp_path / "the script's", tmp_path / "desk"
    folder.mkdir()
    desk.mkdir()
    monkeypatch.chdir(desk)
    script = Path(shutil.copy(AS_IT_IS, folder / "as it is.py"))
    (folder / "sibling.py").write_text("NAME = 'beside it'\n")
    (desk / "torch.py").write_text("raise AssertionError('of the working directory')\n")
    job = submit_script(script, tmp_path, script_args=["--steps", "3", "it's $HOME"])
    status = completed(job)
    assert (status.rows.total, status.has_rows) == (0, False)
    for rank in range(2):
        log = log_of(job, rank)
        assert "sum 0: 3.0 of 2\n" in log
        assert "sum 1: 3.0 of 2\n" in log
        assert log.count("groups are made by vllm_hpc.engine.startup.gloo_peers\n") == 2  # which asks who is in them
        words = [str(script), "--steps", "3", "it's $HOME"]
        assert f"words: {words} {script} beside it {desk}\n" in log
        assert f"local: {rank} 2\n" in log
        assert "no end of line" in log
        assert (job.folder.artefacts / f"rank-{rank}" / "sum.txt").read_text() == "3.0"
    assert {(rank.device, "torch" in rank.versions, "vllm" in rank.versions) for rank in job.ranks()} == {
        ("cpu", True, False)
    }
