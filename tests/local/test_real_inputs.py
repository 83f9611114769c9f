"""Inputs as people have them, through the ranks: a large file that is not copied, and its output as the next input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import PATIENCE_S
from vllm_hpc import Job, submit
from vllm_hpc.jobfolder.store_input import VARIABLE

pytestmark = [pytest.mark.ranks, pytest.mark.full]


def rehearse(folder: Path, name: str, **options: Any) -> Job:
    job = submit(scheduler="local", job_dir=folder / "runs", name=name, rehearse=True, max_tokens=8, **options)
    assert job.wait(PATIENCE_S).is_final
    return job


def test_a_template_over_a_file_that_the_ranks_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "10")
    rows = [json.dumps({"q": f"question {n}", "text": n, "score": float("nan")}) for n in range(60)]
    rows[7] = r'{"q": "\ud83d", "text": 7}'
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    options: dict[str, Any] = {
        "input": tmp_path / "in.jsonl",
        "prompt": "Say {{ question }}",
        "rename": {"q": "question"},
    }
    job = rehearse(tmp_path, "first", tp=2, **options)
    assert job.status().state == "PARTIAL", job.logs()[-3000:]
    assert not job.folder.input.exists()
    found = list(job.results())
    assert [row["in_text"] for row in found] == list(range(60))
    assert [row["index"] for row in found if "error" in row] == [7]
    assert found[7]["error"]["type"] == "UnreadableRowError"
    assert "in.jsonl:8: 'question' contains half of a surrogate pair" in found[7]["error"]["message"]
    good = tmp_path / "good.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in found if "error" not in row))
    judged = list(rehearse(tmp_path, "second", tp=1, input=good, prompt="Is {{ text }} right?").results())
    assert [row["in_text_2"] for row in judged] == [row["text"] for row in found if "error" not in row]
    assert [row["in_text"] for row in judged] == [n for n in range(60) if n != 7]
    assert [row["id"] for row in judged] == [str(n) for n in range(60) if n != 7]
