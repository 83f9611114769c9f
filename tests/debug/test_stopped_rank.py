"""A rank that is stopped, or cannot answer: others of its node say where it is, and the job ends for it by name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ON_VLLM
from tests.real_jobs import ONE_CORE, ends_as, started, submit_long, wait_for
from vllm_hpc.jobfolder.debug_records import DebugFiles

pytestmark = [pytest.mark.programs, pytest.mark.full]


def debug(folder: Path) -> dict[str, Any]:
    """What ``vllm-hpc debug --json`` says."""
    argv = [sys.executable, "-m", "vllm_hpc", "debug", str(folder), "--json"]
    found: dict[str, Any] = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    return found


@pytest.mark.parametrize("on_vllm", [pytest.param(False, id="rehearsed", marks=pytest.mark.ranks), ON_VLLM])
def test_a_rank_that_is_stopped(on_vllm: bool, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """TP=2: the other rank waits for it, asks after the limit for silent ranks, and names it as it leaves."""
    model: Path | None = request.getfixturevalue("tiny") if on_vllm else None
    job = started(submit_long(model, tmp_path, tp=2, env={**ONE_CORE, "VLLM_HPC_DEAD_S": "20"}))
    stopped = job.ranks()[1]
    os.kill(stopped.pid, signal.SIGSTOP)
    wait_for(lambda: debug(job.path)["odd"] == [1], "it is odd")
    found = debug(job.path)
    assert found["lines"][0].startswith(f"rank 1 ({stopped.host}): stopped by a signal (T), last seen at ")
    assert (found["kind"], found["silent"]) == ("stopped", [])
    seen = {view["rank"]: view for view in found["ranks"]}
    assert seen[1]["source"] in ("agent", "neighbour")
    assert seen[1]["stack"]
    assert seen[0]["steps"] > 0
    status = ends_as(job, "FAILED", 120)
    assert status.reason.startswith(f"rank 1 ({stopped.host}): stopped by a signal (T), last seen at ")
    assert "found by rank 0" in status.reason
    hang = DebugFiles(job.folder).read_hang(1)
    assert hang is not None
    assert hang.lines[0] in job.logs()
    assert not list((job.path / "state").glob("crash-*")), "no row is suspected"
    assert debug(job.path)["odd"] == [1], "what was found can be read later"
