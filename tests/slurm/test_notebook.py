"""The example notebook of two nodes, as written: from its plan to its rows on a real Slurm."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebooks.test_examples import check, execute, outputs
from tests.real_jobs import PATIENCE_S
from vllm_hpc import Job

pytestmark = [
    pytest.mark.slurm, pytest.mark.full, pytest.mark.vllm, pytest.mark.notebooks, pytest.mark.usefixtures("slurm")
]  # fmt: skip


def test_the_notebook_of_two_nodes_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = outputs(execute("two-nodes-slurm.ipynb", tmp_path, monkeypatch, 2 * PATIENCE_S))
    check(found)
    job = Job(tmp_path / "runs" / "two-nodes")
    assert [rank.host for rank in job.ranks()] == ["node1", "node2"]
    assert len(list(job.results())) == 8
    drawn = [output["data"]["text/html"] for output in found if "text/html" in output.get("data", {})]
    assert any("node1" in html and "node2" in html for html in drawn)
