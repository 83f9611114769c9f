"""What kills a job on the local scheduler: each ends within a minute, in the right state, with the real error shown.

In ``make test`` the jobs are rehearsals, in ``make test-full`` they run vLLM too: the fixture ``subject``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import real_jobs
from tests.real_jobs import LONG, LONG_SAMPLING, PATIENCE_S, started, submit_long, submit_tiny, wait_for
from vllm_hpc import Job
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.rows.row import Row
from vllm_hpc.schedulers.local import SupervisorRecord

LIMIT_S = 60
# A rehearsal's model loads for as long as no test waits.
LOADING = {"load_s": 100}
ends_as = partial(real_jobs.ends_as, limit=LIMIT_S)


def start(model: Path | None, work: Path, **options: Any) -> Job:
    """A TP=2 job that has written its first rows."""
    return started(submit_long(model, work, tp=2, **options))


def loading(model: Path | None) -> dict[str, Any]:
    """Options of a job that is to be met while its model loads, which a rehearsal's does at once unless told."""
    return {"rehearse": LOADING} if model is None else {}


def rank_pid(job: Job, rank: int) -> int:
    return job.ranks()[rank].pid


def supervisor(job: Job) -> psutil.Process:
    record = read_json(job.folder.supervisor, SupervisorRecord)
    assert record is not None
    return psutil.Process(record.pid)


def logs_command(job: Job) -> str:
    return subprocess.run(
        [sys.executable, "-m", "vllm_hpc", "logs", str(job.path)], capture_output=True, text=True, check=True
    ).stdout


def test_sigkill_of_a_worker(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    victim = rank_pid(job, 1)
    os.kill(victim, signal.SIGKILL)
    status = ends_as(job, "FAILED")
    assert f"rank 1 on {os.uname().nodename} (pid {victim}) vanished" in status.reason
    assert f"(pid {victim}) vanished" in logs_command(job)
    summary = job.collect()
    assert summary.rows["done"] >= status.rows.done > 0
    assert summary.rows["missing"] > 0
    assert summary.rows["done"] + summary.rows["missing"] == len(LONG)


def test_sigkill_of_the_torchrun_agent(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    psutil.Process(rank_pid(job, 0)).parent().kill()  # type: ignore[union-attr]
    status = ends_as(job, "FAILED")
    assert "the process that started this rank (torchrun, or srun's step) was killed" in status.reason
    assert "the process that started this rank (torchrun, or srun's step) was killed" in logs_command(job)


def test_sigkill_of_the_supervisor(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    supervisor(job).kill()
    status = ends_as(job, "FAILED")
    assert "supervisor" in status.reason or "TERM" in status.reason


def test_sigkill_of_supervisor_and_script_together(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    watcher = supervisor(job)
    script = next(child for child in watcher.children() if child.name() == "bash")
    watcher.kill()
    script.kill()
    ends_as(job, "FAILED")


def test_sigkill_of_the_script(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    next(child for child in supervisor(job).children() if child.name() == "bash").kill()
    status = ends_as(job, "FAILED")
    assert job.folder.exit_record(1).exists()
    assert (
        "the process that started torchrun (the script, or srun's step) was killed" in status.reason
        or "SIGKILL" in status.reason
    )


def test_cancel(subject: Path | None, tmp_path: Path) -> None:
    job = start(subject, tmp_path)
    before = job.status().rows.done
    began = time.monotonic()
    assert job.cancel().state == "CANCELLED"
    assert time.monotonic() - began < LIMIT_S
    ends_as(job, "CANCELLED")
    assert job.collect().rows["done"] >= before > 0
    assert job.cancel().state == "CANCELLED"  # twice does no harm


def test_cancel_while_the_model_loads(subject: Path | None, tmp_path: Path) -> None:
    job = submit_tiny(subject, tmp_path, LONG, tp=2, **loading(subject))
    wait_for(lambda: len(job.ranks()) == 2, "both ranks have begun")
    job.cancel()
    ends_as(job, "CANCELLED")


def test_walltime(subject: Path | None, tmp_path: Path) -> None:
    """It is over before the model is loaded: nothing can be drained."""
    job = submit_long(subject, tmp_path, tp=1, time="0:05", **loading(subject))
    assert ends_as(job, "TIMEOUT").reason == "the walltime was reached"


def test_a_worker_that_raises(subject: Path | None, tmp_path: Path) -> None:
    """The first rank meets a full disk while its peer is in step with it: the disk is the error, not the lost peer."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '0':\n"
        "    import resource\n"
        "    from vllm_hpc.engine.health.shard_writer import ShardWriter\n"
        "    real = ShardWriter.put\n"
        "    def put(self, make, rows=[]):\n"
        "        rows.append(make)\n"
        "        if len(rows) == 60:  # the model's kernels are compiled: from here on no file may grow beyond that\n"
        "            resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))\n"
        "        real(self, make)\n"
        "    ShardWriter.put = put\n"
    )
    rows: list[Row] = [{**row, "tag": "x" * 2000} for row in LONG]  # so that 60 of them are nearly as much
    short = {**LONG_SAMPLING, "max_tokens": 50}
    job = submit_tiny(subject, tmp_path, rows, **short, tp=2, env={"PYTHONPATH": str(tmp_path)})
    wait_for(lambda: job.folder.rank_record(0).exists() and job.ranks()[0].outcome == "error", "rank 0 has raised")
    status = ends_as(job, "FAILED")
    assert "OSError: File too large: every row finished so far is safe; free some space" in status.reason
    assert "every row finished so far is safe" in logs_command(job)
    shard = job.folder.shard(0, 1).read_bytes()
    assert len(shard) <= 150_000
    assert shard.endswith(b"\n")
    assert job.collect().rows["done"] == status.rows.done == len(shard.splitlines())


@pytest.mark.vllm
@pytest.mark.full
def test_an_engine_argument_that_vllm_refuses(tiny: Path, tmp_path: Path) -> None:
    job = submit_tiny(tiny, tmp_path, engine={"dtype": "float32", "max_num_batched_tokens": 1, "max_num_seqs": 64})
    assert "max_num_batched_tokens (1) must be greater than or equal to max_num_seqs (64)" in reason_of_rank(job)


@pytest.mark.ranks
def test_an_engine_that_runs_out_of_memory(tmp_path: Path) -> None:
    """The same of a rehearsal, whose engine takes every argument: the one error that it has fails the job likewise."""
    job = submit_tiny(None, tmp_path, rehearse={"fault": "oom", "fault_row": 0}, max_requeues=0)
    assert "OutOfMemoryError: rehearsed fault: out of memory" in reason_of_rank(job)


def reason_of_rank(job: Job) -> str:
    """Why the job has failed, once its first rank has: the log has the whole traceback."""
    wait_for(lambda: job.folder.rank_record(0).exists() and job.ranks()[0].outcome == "error", "rank 0 has raised")
    status = ends_as(job, "FAILED")
    assert "Traceback" in logs_command(job)
    return status.reason


def test_the_job_survives_its_terminal(subject: Path | None, tmp_path: Path) -> None:
    """Submitted from a terminal (a pty) that is closed at once: the kernel hangs up its session, the job goes on."""
    model = f"Path({str(subject)!r})" if subject else None
    code = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from tests.real_jobs import submit_tiny;"
        f"submit_tiny({model}, Path({str(tmp_path)!r}), name='left')"
    )
    root = str(Path(__file__).parents[2])
    subprocess.run(["script", "-qec", f'"{sys.executable}" -c "{code}"', "/dev/null"], check=True, cwd=root)
    assert Job(tmp_path / "runs" / "left").wait(PATIENCE_S).state == "COMPLETED"
