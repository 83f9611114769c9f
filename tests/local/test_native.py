"""--launcher native: vLLM's own workers, under the same contract as a rank for each GPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import real_jobs
from tests.real_jobs import check_complete, started, submit_long, submit_tiny, wait_for
from vllm_hpc import Job

ends_as = partial(real_jobs.ends_as, limit=60)

pytestmark = [pytest.mark.vllm, pytest.mark.full]


@pytest.mark.parametrize("layout", [{"pp": 2}, {"dp": 2, "tp": 2}], ids=["PP=2", "DP=2xTP=2"])
def test_layout(tiny: Path, reference: list[str], tmp_path: Path, layout: dict[str, Any]) -> None:
    before = set(Path("/dev/shm").glob("vllm_dist_*"))
    job = submit_tiny(tiny, tmp_path, launcher="native", **layout)
    check_complete(job, reference)
    assert set(Path("/dev/shm").glob("vllm_dist_*")) <= before


def start(tiny: Path, work: Path) -> Job:
    return started(submit_long(tiny, work, tp=2, launcher="native"))


def workers_of(job: Job) -> list[psutil.Process]:
    """The processes that vLLM has started, by the names that it gives them."""
    return [one for one in psutil.Process(job.ranks()[0].pid).children(recursive=True) if "Worker" in one.name()]


def memory_of(job: Job) -> list[Path]:
    """What vLLM's processes share, by the names that Python gives it: other tests' jobs have some of their own."""
    every = [psutil.Process(job.ranks()[0].pid), *workers_of(job)]
    maps = {Path(one.path) for process in every for one in process.memory_maps()}
    return [path for path in maps if path.match("/dev/shm/psm_*") and path.exists()]


def test_a_worker_that_dies_ends_the_job(tiny: Path, tmp_path: Path) -> None:
    job = start(tiny, tmp_path)
    workers = workers_of(job)
    assert len(workers) == 2
    workers[1].kill()
    status = ends_as(job, "FAILED")
    assert "rank 0" in status.reason
    assert "died unexpectedly" in job.folder.rank_log(0).read_text()


def test_no_worker_outlives_the_rank_that_started_it(tiny: Path, tmp_path: Path) -> None:
    job = start(tiny, tmp_path)
    shared = memory_of(job)
    assert shared
    psutil.Process(job.ranks()[0].pid).kill()
    assert "rank 0" in ends_as(job, "FAILED").reason
    wait_for(lambda: not any(path.exists() for path in shared), "no shared memory is left", 60)


def test_cancel(tiny: Path, tmp_path: Path) -> None:
    job = start(tiny, tmp_path)
    shared = memory_of(job)
    assert shared
    job.cancel()
    ends_as(job, "CANCELLED")
    wait_for(lambda: not any(path.exists() for path in shared), "no shared memory is left", 60)
