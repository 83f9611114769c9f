"""One rank as its script starts it: what it does before it runs what submitit has kept for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.in_script import rank


@pytest.mark.parametrize(("watched", "is_marked"), [("1", True), ("", False), (None, False)])
def test_it_marks_its_node_only_where_nodes_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watched: str | None, is_marked: bool
) -> None:
    folder = JobFolder(tmp_path)
    folder.joined(2, 1).parent.mkdir()
    monkeypatch.setattr(rank, "process_job", lambda ranks: None)
    monkeypatch.setenv("VLLM_HPC_JOB_ID", "4711")
    monkeypatch.delenv("SUBMITIT_FOLDER", raising=False)
    for name, value in {"VLLM_HPC_ATTEMPT": "2", "GROUP_RANK": "1", "VLLM_HPC_WATCHED": watched}.items():
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    assert rank.main([str(tmp_path)]) == 0
    assert folder.joined(2, 1).exists() == is_marked
