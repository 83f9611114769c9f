"""Jobs under Debian's own Python: the second one of a model gets compiled code from the first, on another node."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests import debians_python
from tests.real_jobs import ENGINE, GREEDY, PATIENCE_S, PROMPTS, write_input
from vllm_hpc import Job

WHY_NOT = debians_python.why_not()
pytestmark = [pytest.mark.full, pytest.mark.inputs]


@pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))
def test_a_job_of_a_model_runs_twice(subject: Path | None, answers: list[str], tmp_path: Path) -> None:
    python = debians_python.make(tmp_path / "venv")
    source = write_input(tmp_path / "prompts.jsonl", PROMPTS)
    of = ["--rehearse"] if subject is None else [str(subject), *(f"--engine={k}={v}" for k, v in ENGINE.items())]
    options = ["--scheduler=local", "--tp=1", *(f"--{k.replace('_', '-')}={v}" for k, v in GREEDY.items())]
    for node in ("one", "other"):
        (tmp_path / node).mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / node), "XDG_CACHE_HOME": str(tmp_path / "cache")}
        done = subprocess.run(
            [python, "-m", "vllm_hpc", "submit", *of, f"--input={source}", *options, f"--name={node}", "--wait"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        job = Job(tmp_path / "runs" / node)
        assert [row["text"] for row in job.results()] == answers
        record = json.loads((job.path / "job.json").read_text())
        assert record["versions"]["python"] == subprocess.check_output([python, "-V"], text=True).split()[1]
        assert "compiled code" not in (job.path / "logs" / "rank-0.log").read_text()
    kept = list((tmp_path / "cache").rglob("rank-*.tar"))
    assert bool(kept) == (subject is not None)
    if kept:
        assert [path for path in (tmp_path / "other").rglob("*") if path.is_file()], "it was unpacked there"
