"""Job folders with samples, runs and rows, as a job on several replicas leaves them."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from tests.crafted import SUBMITTED_AT, make_job, rank
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, Progress, Run, Sample
from vllm_hpc.spec.layout import Layout

# Seconds of an attempt from its start: then it generates for GENERATE_S.
PARTS = {"launch": 10.0, "import": 20.0, "load": 50.0, "warm_up": 20.0}
GENERATE_S = 1000.0
BEGINS = SUBMITTED_AT + 100


def make_run(
    path: Path, replicas: int = 2, samples: int = 50, rows: int = 40, watts: float | None = 500.0
) -> JobFolder:
    """A job that has ended: 100 tokens a second on each replica, and every tenth row with an error."""
    nodes = max(1, replicas // 4)
    ranks = 2 * replicas // nodes
    shape = Layout(nodes=nodes, gpus_per_node=ranks, procs_per_node=ranks, tp=2, pp=1, dp=replicas)
    folder = make_job(path, rows=rows, shape=shape)
    (folder.path / "script.sh").write_text("#!/bin/bash\necho '</script><b>'\n")
    begin(folder, 1, BEGINS)
    for replica in range(replicas):
        write_samples(folder, replica, 1, BEGINS + 100, samples, watts)
        write_json(folder.progress(replica), progress_of(replica, 1, range(replica, rows, replicas)))
    for number in range(2 * replicas):
        versions = {"vllm": "0.32.0"}
        rank(folder, number, "ok", 1200, device_name="H100", device_gib=79.6, versions=versions, patches={"late": "on"})
    finish(folder, 1, BEGINS + 1110)
    write_rows(folder, replicas, rows)
    return folder


def begin(folder: JobFolder, attempt: int, at: float) -> None:
    write_json(folder.attempt(attempt), Attempt(attempt=attempt, job_id="77-1000", host="node-1", started_at=at))


def finish(folder: JobFolder, attempt: int, at: float, cause: str = "exit", exit_code: int = 0) -> None:
    write_json(folder.exit_record(attempt), ExitRecord(attempt=attempt, exit_code=exit_code, cause=cause, ended_at=at))


def progress_of(replica: int, attempt: int, indices: range) -> Progress:
    failed = sum("error" in row_out(index) for index in indices)
    done = len(indices) - failed
    seconds = {**PARTS, "generate": GENERATE_S, "drain": 0.0, "idle": 10.0}
    runs = tuple(
        Run(attempt=number, rows=done, completion_tokens=100_000, occupancy=0.5, seconds=seconds)
        for number in range(1, attempt + 1)
    )
    return Progress(
        replica=replica, attempt=attempt, done=done, failed=failed, completion_tokens=100_000, started_at=BEGINS + 100,
        updated_at=BEGINS + 1100, runs=runs,
    )  # fmt: skip


def write_samples(
    folder: JobFolder, replica: int, attempt: int, at: float, number: int, watts: float | None = None
) -> None:
    """From ``at`` for GENERATE_S, 100 tokens a second."""
    step = GENERATE_S / (number - 1)
    lines = [
        msgspec.json.encode(
            Sample(at=at + n * step, tokens=round(100 * n * step), running=8, most_running=16, kv=0.25, watts=watts)
        )
        for n in range(number)
    ]
    folder.samples(replica, attempt).write_bytes(b"\n".join(lines) + b"\n")


def write_rows(folder: JobFolder, replicas: int, rows: int) -> None:
    for replica in range(replicas):
        with folder.shard(replica, 1).open("w") as file:
            for index in range(replica, rows, replicas):
                file.write(json.dumps(row_out(index)) + "\n")


def row_out(index: int) -> dict[str, object]:
    if index % 10 == 5:
        message = f"the prompt has {9000 + index} tokens, of at most 8192"
        return {"index": index, "id": str(index), "error": {"type": "ValueError", "message": message}}
    return {
        "index": index, "id": str(index), "text": "x", "finish_reason": "length" if index % 2 else "stop",
        "prompt_tokens": 10 + index, "completion_tokens": 100,
    }  # fmt: skip
