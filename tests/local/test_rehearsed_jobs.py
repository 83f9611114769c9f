"""Rehearsals on the local scheduler: real torchrun, store and gloo, no vLLM; and what follows from each fault."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import PATIENCE_S, PROMPTS, check_complete, rehearsed_texts, submit_tiny
from vllm_hpc import Job
from vllm_hpc.jobfolder.debug_records import DebugFiles
from vllm_hpc.jobs.status import Status
from vllm_hpc.rows.row import Row

pytestmark = pytest.mark.ranks

ROWS: list[Row] = [{"prompt": f"row {number}"} for number in range(400)]


def rehearse(work: Path, rows: list[Row] = ROWS, **options: Any) -> tuple[Job, Status]:
    """Run a rehearsal to its end; the settings are those of some seconds' work."""
    settings = {"tokens_per_s": 1000, **options.pop("rehearse", {})}
    job = submit_tiny(None, work, rows, **{"max_tokens": 8, "rehearse": settings, "max_requeues": 6, **options})
    return job, job.wait(PATIENCE_S)


def test_no_rank_imports_vllm_or_transformers(tmp_path: Path) -> None:
    for name in ("vllm", "transformers"):
        (tmp_path / "traps" / name).mkdir(parents=True)
        (tmp_path / "traps" / name / "__init__.py").write_text("raise SystemExit('imported')\n")
    job = submit_tiny(None, tmp_path, tp=2, dp=2, env={"PYTHONPATH": str(tmp_path / "traps"), "OMP_NUM_THREADS": "1"})
    check_complete(job, rehearsed_texts(PROMPTS, 24))
    assert {rank.device for rank in job.ranks()} == {"rehearsal"}
    assert all(set(rank.versions) == {"rehearsal", "torch", "python"} for rank in job.ranks())


@pytest.mark.parametrize("fault", ["die", "hang"])
def test_a_job_goes_on_after_a_fault_of_its_first_attempt(tmp_path: Path, fault: str) -> None:
    settings = {"fault": fault, "fault_s": 0.7, "fault_rank": 1}
    job, status = rehearse(tmp_path, tp=2, rehearse=settings, env={"VLLM_HPC_STALL_S": "2"})
    assert (status.state, status.attempts) == ("COMPLETED", 2), (status, job.logs()[-3000:])
    assert [row["text"] for row in job.results()] == rehearsed_texts(ROWS, 8)
    log = job.logs(rank=1)
    assert f"rehearsed fault: {fault}" in log
    if fault == "hang":
        assert "vllm-hpc: the engine has been in one step for more than 2 s" in log
        assert "most recent call first" in log  # where every thread was, as the rank gave up
        hang = DebugFiles(job.folder).read_hang(1)
        assert hang is not None
        assert (hang.kind, hang.odd) == ("elsewhere", (1,))
        assert hang.lines[0].startswith(
            f"rank 1 ({os.uname().nodename}): is not in the broadcast that rank 0 waits in: "
        )
        assert "faults.py:" in hang.lines[0]
        assert f"vllm-hpc: {hang.lines[0]}" in job.logs()


@pytest.mark.full
def test_a_row_that_kills_the_rank_is_found_among_those_that_ran_with_it(tmp_path: Path) -> None:
    job, status = rehearse(tmp_path, ROWS[:2], tp=1, rehearse={"fault": "die", "fault_row": 1})
    assert (status.state, status.rows.done, status.rows.failed) == ("PARTIAL", 1, 1), (status, job.logs()[-3000:])
    assert list(job.results())[1]["error"]["type"] == "EngineDiedError"


def test_a_row_that_ends_every_attempt_becomes_an_error_row(tmp_path: Path) -> None:
    rows = ROWS[:4]
    job, status = rehearse(tmp_path, rows, tp=1, engine={"max_num_seqs": 1}, rehearse={"fault": "oom", "fault_row": 2})
    assert (status.state, status.rows.done, status.rows.failed) == ("PARTIAL", 3, 1), (status, job.logs()[-3000:])
    found = list(job.results())
    assert found[2]["error"]["type"] == "EngineDiedError"
    assert "OutOfMemoryError: rehearsed fault: out of memory" in found[2]["error"]["message"]
    assert all(row["rehearsal"] for row in found)


@pytest.mark.inputs
def test_a_fault_of_the_first_step_ends_the_job_after_two_attempts(tmp_path: Path) -> None:
    """The second one runs a probe first. No row is blamed."""
    job, status = rehearse(tmp_path, tp=1, rehearse={"fault": "step"})
    assert (status.state, status.attempts) == ("FAILED", 2), (status, job.logs()[-3000:])
    assert "RuntimeError: rehearsed fault: CUDA error: unspecified launch failure" in status.reason
    assert (status.rows.done, status.rows.failed) == (0, 0)
    assert "attempts 1 and 2 ended alike before a row was finished, and no row is the cause" in job.logs()
    assert job.collect().rows == {"total": len(ROWS), "done": 0, "failed": 0, "missing": len(ROWS)}


@pytest.mark.full
def test_a_signal_in_the_first_step_is_told_as_that_signal(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes, os\n"
        "if os.environ.get('RANK') == '0':\n"
        "    from vllm_hpc.engine.rehearsal.faults import FaultPlan\n"
        "    FaultPlan.strike = lambda self, started: ctypes.string_at(8)\n"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    job, status = rehearse(tmp_path, tp=1, rehearse={"fault": "step"}, env={"PYTHONPATH": path})
    assert (status.state, status.attempts) == ("FAILED", 2), (status, job.logs()[-3000:])
    assert "was killed by SIGSEGV, a segmentation fault, in <lambda>" in status.reason
    assert (status.rows.done, status.rows.failed) == (0, 0)


def test_ranks_that_diverge_end_the_job(tmp_path: Path) -> None:
    job, status = rehearse(tmp_path, tp=2, rehearse={"fault": "diverge", "fault_row": 40, "fault_rank": 1})
    assert status.state == "FAILED"
    assert "DivergedError: the ranks of replica 0 diverged" in status.reason
    assert 0 < job.collect().rows["done"] < len(ROWS)


def test_a_rehearsal_loads_as_long_as_it_is_told_to(tmp_path: Path) -> None:
    job, status = rehearse(tmp_path, ROWS[:1], tp=1, rehearse={"load_s": 1.5})
    assert status.state == "COMPLETED"
    assert job.ranks()[0].timings["load"] >= 1.5
