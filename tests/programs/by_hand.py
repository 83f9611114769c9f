"""Jobs with a program whose folders and ranks are started by hand: what a submission and a script would do of it."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from tests import crafted
from tests.engine_run import ENVIRONMENT
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.program import Program

# What ranks must not inherit from a job that runs the tests.
_FOREIGN = ("TORCHELASTIC", "SLURM", "VLLM_HPC")
PATIENCE_S = 600


class Ended(NamedTuple):
    """The ranks of an attempt: their exit codes, records and logs."""

    codes: list[int]
    records: list[RankRecord]
    logs: list[str]

    def ok(self) -> Ended:
        assert self.codes == [0] * len(self.codes), "\n".join(log[-3000:] for log in self.logs)
        return self


def file_program(path: Path, name: str, text: str, **facts: Any) -> Program:
    """A program in a file, as a submission finds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Program(kind="file", name=name, source=str(path), folder=str(path.parent), sha256=digest, **facts)


def make_job(path: Path, program: Program, rows: list[Row], shape: Layout, **more: Any) -> JobFolder:
    """A job's folder; a rehearsal unless ``model`` is given. ``engine``: engine arguments; ``sampling``: the job's."""
    job = crafted.make_job(path, rows, shape=shape)
    record = job.job()
    model = more.pop("model", None)
    request = msgspec.structs.replace(record.request, rehearse=model is None)
    plan = msgspec.structs.replace(record.plan, engine=more.pop("engine", {}))
    changed = {"request": request, "plan": plan, "model": str(model or "rehearsal"), "program": program, **more}
    write_json(job.job_json, msgspec.structs.replace(record, **changed))
    if program.kind == "file":
        job.program.write_bytes(Path(program.source).read_bytes())
    return job


def start_ranks(job: JobFolder, attempt: int = 1) -> list[subprocess.Popen[bytes]]:
    """Start the ranks of an attempt, as torchrun would."""
    crafted.start(job, attempt)
    size = job.job().plan.layout.world_size
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    own = {"VLLM_HPC_TASK": "0", "VLLM_HPC_ATTEMPT": str(attempt), "VLLM_HPC_JOB_ID": f"by-hand-{os.getpid()}-{port}"}
    places = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    mine = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    words = [sys.executable, "-W", "ignore", "-m", "tests.rank_without", str(job.path)]
    given = {**mine, **ENVIRONMENT, **places, **own}
    return [
        subprocess.Popen(
            words, env={**given, "RANK": str(rank), "LOCAL_RANK": str(rank)}, cwd=Path(__file__).parents[2]
        )
        for rank in range(size)
    ]


def run_ranks(job: JobFolder, attempt: int = 1) -> Ended:
    """Run an attempt to its end. There is no torchrun that would end the others when one has failed."""
    ranks = start_ranks(job, attempt)
    try:
        codes = [rank.wait(PATIENCE_S) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    crafted.end(job, max(map(abs, codes)), attempt=attempt)
    records = [read_json(job.rank_record(rank), RankRecord) for rank in range(len(ranks))]
    logs = [job.rank_log(rank).read_text(errors="replace") for rank in range(len(ranks))]
    assert None not in records, logs
    return Ended(codes, [record for record in records if record is not None], logs)


def written(job: JobFolder, replica: int = 0, attempt: int = 1) -> list[Row]:
    """The rows of a shard, in the order of the input."""
    shard = job.shard(replica, attempt)
    return sorted(crafted.read_lines(shard), key=lambda row: row["index"]) if shard.exists() else []
