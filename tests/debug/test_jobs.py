"""Jobs whose own code hangs, as they are submitted: the state, the reason, and nothing left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.debug.test_scripts import LEAVES, SKIPS
from tests.real_jobs import ends_as
from vllm_hpc import submit
from vllm_hpc.jobfolder.debug_records import DebugFiles

pytestmark = [pytest.mark.programs, pytest.mark.ranks, pytest.mark.full]

# The leader's barrier of three seconds; rank 1 does not come.
PROGRAM = """import time
import torch.distributed as dist

class Waits:
    def setup(self, ctx):
        if ctx.rank == 0:
            ctx.barrier(timeout=3)
        else:
            compute()

def compute():
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(("code", "words"), [(SKIPS, "is not in the barrier that ranks 0, 2 wait in: at myprog.py:9")])
def test_a_script_whose_rank_skips_a_barrier(tmp_path: Path, code: str, words: str) -> None:
    script = tmp_path / "myprog.py"
    script.write_text(code)
    env = {"VLLM_HPC_STALL_S": "4", "OMP_NUM_THREADS": "1"}
    job = submit(script=str(script), scheduler="local", tp=3, env=env, job_dir=str(tmp_path / "runs"))
    status = ends_as(job, "FAILED", 180)
    host = os.uname().nodename
    assert status.reason.startswith(f"rank 1 ({host}): {words} in main (found by rank ")
    assert status.attempts == 1


def test_a_script_whose_rank_leaves_early(tmp_path: Path) -> None:
    """The others wait in a barrier for one that has ended: gloo or the watchdog tells, and the job fails."""
    script = tmp_path / "myprog.py"
    script.write_text(LEAVES)
    env = {"VLLM_HPC_STALL_S": "4", "OMP_NUM_THREADS": "1"}
    job = submit(script=str(script), scheduler="local", tp=3, env=env, job_dir=str(tmp_path / "runs"))
    assert "myprog.py:7" in ends_as(job, "FAILED", 180).reason


def test_a_barrier_of_a_program_says_where_the_others_are(tmp_path: Path) -> None:
    program = tmp_path / "myprog.py"
    program.write_text(PROGRAM)
    source = tmp_path / "rows.jsonl"
    source.write_text('{"prompt": "one"}\n')
    job = submit(
        None, rehearse={}, input=str(source), program=f"{program}:Waits", scheduler="local", tp=2, max_requeues=0,
        env={"OMP_NUM_THREADS": "1"}, job_dir=str(tmp_path / "runs"),
    )  # fmt: skip
    reason = ends_as(job, "FAILED", 180).reason
    host = os.uname().nodename
    assert reason.startswith(
        f"rank 1 ({host}): is not in the ctx.barrier that rank 0 waits in: at myprog.py:13 in compute"
    )
    assert "1 rank of 2 did not come within 3 s" in reason
    hang = DebugFiles(job.folder).read_hang(1)
    assert hang is not None
    assert hang.odd == (1,)
