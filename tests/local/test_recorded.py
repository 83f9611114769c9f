"""A job that 0.1 submitted and that waits still, on a machine whose vllm-hpc was replaced meanwhile."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from pathlib import Path

import pytest

from tests.real_jobs import PATIENCE_S, ends_as, rehearsed_texts, wait_for
from tests.recorded import ROWS, replay, submit_as_0_1
from vllm_hpc import Job


@pytest.mark.parametrize("name", ["local", "slurm", "pbs"])
def test_the_folder_is_read(name: str, tmp_path: Path) -> None:
    job = Job(replay(name, tmp_path).parent)
    record = job.folder.job()
    assert (record.rows, record.scheduler, record.request.rehearse_set.tokens_per_s) == (ROWS, name, 400)
    assert record.plan.layout.tp == 2
    task = pickle.loads((job.folder.ranks / "task.pkl").read_bytes())
    assert task.function.folder == str(job.path)


@pytest.mark.ranks
def test_it_runs_drains_requeues_resumes_and_is_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As 0.1's submit does.
    job = submit_as_0_1("local", [sys.executable, "-m", "vllm_hpc.supervisor", "start"], tmp_path, monkeypatch)
    wait_for(lambda: job.status().rows.done > 0, "rows are written")
    shell = next(one for one in _children(int(str(job.job_id).split("-")[0])) if one != os.getpid())
    os.kill(shell, signal.SIGUSR2)  # its walltime is near
    wait_for(lambda: job.folder.last_number() == 2, "it runs again")
    before = job.status().rows.done
    wait_for(lambda: job.status().rows.done > before, "the next attempt writes rows too")
    job.folder.drain.touch()
    status = ends_as(job, "PARTIAL", PATIENCE_S)
    assert 0 < status.rows.done < ROWS
    assert [job.folder.exit_of(k).cause for k in (1, 2)] == ["requeue", "exit"]  # type: ignore[union-attr]
    assert job.resume() == ROWS - status.rows.done
    ends_as(job, "COMPLETED", PATIENCE_S)
    rows = list(job.results())
    assert [row["text"] for row in rows] == rehearsed_texts([{"prompt": f"prompt {n}"} for n in range(ROWS)], 16)
    assert job.collect().rows["done"] == ROWS


def _children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8").split()]
