"""A script's ranks under a torchrun of the test's own: without a scheduler, on a job folder made by hand."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.plan import Plan
from vllm_hpc.spec.program import Program


def make_script_job(path: Path, code: str, ranks: int) -> JobFolder:
    """A job of a script, whose first attempt has begun."""
    folder = crafted.make_job(path)
    source = path.parent / "myprog.py"
    source.write_text(code)
    folder.program.write_text(code)
    digest = hashlib.sha256(code.encode()).hexdigest()
    program = Program(
        kind="script", name="myprog.py", source=str(source), sha256=digest, directory=str(path.parent),
        drives_engine=True,
    )  # fmt: skip
    shape = Layout(nodes=1, gpus_per_node=ranks, procs_per_node=ranks, tp=ranks, pp=1, dp=1)
    record = msgspec.structs.replace(folder.job(), program=program, plan=Plan(layout=shape, engine={}), rows=0)
    write_json(folder.job_json, record)
    crafted.start(folder)
    return folder


def start(folder: JobFolder, marker: str = "", **environment: str) -> subprocess.Popen[str]:
    """Start the ranks; ``marker`` is a variable that all their processes have."""
    ranks = folder.job().plan.layout.procs_per_node
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = {
        "VLLM_HPC_FOLDER": str(folder.path), "VLLM_HPC_ATTEMPT": "1", "VLLM_HPC_TASK": "0", "VLLM_HPC_JOB_ID": "77",
        "SUBMITIT_EXECUTOR": "vllmhpc", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "VLLM_HPC_TEST": marker,
    }  # fmt: skip
    command = [
        str(Path(sys.executable).with_name("torchrun")), "--nnodes=1", f"--nproc-per-node={ranks}",
        "--rdzv-backend=vllm-hpc", "--rdzv-conf=rank=0", f"--rdzv-endpoint=127.0.0.1:{port}", "--max-restarts=0",
        "-m", "vllm_hpc.in_job", "rank", str(folder.path),
    ]  # fmt: skip
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **ours, **environment}
    )
