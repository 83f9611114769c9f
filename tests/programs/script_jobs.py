"""Scripts as jobs, for the tests: written into a folder, submitted, waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.real_jobs import PATIENCE_S, ends_as
from vllm_hpc import Job, submit
from vllm_hpc.jobs.status import Status


def submit_script(script: Path, work: Path, **options: Any) -> Job:
    """Submit it on two ranks of this machine, unless ``options`` say otherwise, and for one attempt."""
    given = {"scheduler": "local", "tp": 2, "max_requeues": 0, "job_dir": str(work / "runs"), **options}
    return submit(script=str(script), **given)


def submit_code(code: str, work: Path, **options: Any) -> Job:
    """The same for code that has no file yet."""
    script = work / "script.py"
    script.write_text(code)
    return submit_script(script, work, **options)


def completed(job: Job) -> Status:
    """All ranks ended well, and nothing is left of the job."""
    status = ends_as(job, "COMPLETED", PATIENCE_S)
    assert [rank.outcome for rank in job.ranks()] == ["ok"] * job.folder.job().plan.layout.all_ranks
    return status


def log_of(job: Job, rank: int = 0) -> str:
    """What a rank has printed so far."""
    log = job.folder.rank_log(rank)
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
