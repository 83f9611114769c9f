"""Scripts whose ranks wait for each other in vain: the report names the right rank and line, and nothing is left."""

from __future__ import annotations

import os
import signal
import uuid
from pathlib import Path

import psutil
import pytest

from tests.debug.torchrun import make_script_job, start
from tests.real_jobs import wait_for
from vllm_hpc.jobfolder.debug_records import DebugFiles, Hang
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.failure import first_error

pytestmark = [pytest.mark.programs, pytest.mark.ranks, pytest.mark.timeout(200)]

SKIPS = """import time
import torch.distributed as dist

def main():
    dist.init_process_group("gloo")
    if dist.get_rank() != 1:
        dist.barrier()
    while True:
        time.sleep(0.1)

main()
"""
LEAVES = SKIPS.replace("    while True:\n        time.sleep(0.1)\n", "")
BUSY = """import torch, time
import torch.distributed as dist

dist.init_process_group("gloo")
for _ in range(60):
    dist.all_reduce(torch.ones(8))
    dist.barrier()
    time.sleep(0.1)
until = time.monotonic() + 4
while time.monotonic() < until:
    pass
print("done", flush=True)
"""
LOOPS = """import torch.distributed as dist

dist.init_process_group("gloo")
for _ in range(9):
    dist.barrier()
print("looping", flush=True)
while True:
    dist.barrier()
"""
ASYNCHRONOUS = """import torch, time
import torch.distributed as dist

dist.init_process_group("gloo")
if dist.get_rank() == 1:
    dist.recv(torch.ones(8), src=0)
work = dist.all_reduce(torch.ones(8), async_op=True)
work.wait()
"""


def hang_of(folder: JobFolder, stall_s: str = "2") -> tuple[Hang, str, int]:
    """Run it to its end: what its ranks found, what torchrun printed, its exit code. No process of it is left."""
    marker = uuid.uuid4().hex
    job = start(folder, marker, VLLM_HPC_STALL_S=stall_s)
    out, _ = job.communicate(timeout=180)
    wait_for(lambda: not left(marker), f"no process is left: {left(marker)}", 30)
    hang = DebugFiles(folder).read_hang(1)
    assert hang is not None, out
    return hang, out, job.returncode


def left(marker: str) -> list[psutil.Process]:
    """The processes that have the variable of the test's ranks."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VLLM_HPC_TEST") == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_a_rank_that_skips_a_barrier(tmp_path: Path) -> None:
    folder = make_script_job(tmp_path / "job", SKIPS, ranks=2)
    hang, out, code = hang_of(folder)
    host = os.uname().nodename
    assert code != 0
    assert (hang.kind, hang.odd, hang.found_by) == ("elsewhere", (1,), 0)
    assert hang.lines == (
        f"rank 1 ({host}): is not in the barrier that rank 0 waits in: at myprog.py:9 in main",
        hang.lines[1],
    )
    assert hang.lines[1].startswith("rank 0 waits in barrier (myprog.py:7 in main, collective ")
    assert f"vllm-hpc: {hang.lines[0]}" in out, "the scheduler's log has it"
    error = first_error(folder)
    assert error is not None
    assert error[0].startswith(
        f"{hang.lines[0]} (found by rank 0 on {host}: TimeoutError: the rank has been in barrier"
    )
    assert hang.lines[1] in folder.rank_log(0).read_text()


@pytest.mark.full
def test_of_four_ranks_one_skips_a_barrier(tmp_path: Path) -> None:
    hang, _, _ = hang_of(make_script_job(tmp_path / "job", SKIPS, ranks=4), "5")
    assert hang.odd == (1,)
    assert "the barrier that ranks 0, 2, 3 wait in: at myprog.py:9 in main" in hang.lines[0]
    assert hang.lines[1].startswith("ranks 0, 2, 3 wait in barrier (myprog.py:7 in main")


@pytest.mark.full
def test_a_script_that_gets_on_is_not_stalled(tmp_path: Path) -> None:
    """It is in the same line of a loop whenever it is looked at, and then computes for longer than the limit."""
    folder = make_script_job(tmp_path / "job", BUSY, ranks=2)
    job = start(folder, VLLM_HPC_STALL_S="2")
    out, _ = job.communicate(timeout=180)
    assert job.returncode == 0, out
    assert "done" in folder.rank_log(1).read_text()
    assert DebugFiles(folder).read_hang(1) is None


@pytest.mark.full
def test_a_wait_for_an_asynchronous_collective(tmp_path: Path) -> None:
    """There the innermost line is the script's own; the other rank waits for what nobody sends."""
    hang, _, code = hang_of(make_script_job(tmp_path / "job", ASYNCHRONOUS, ranks=2), "4")
    assert code != 0
    assert any("wait (myprog.py:8" in line for line in hang.lines), hang.lines
    assert any("recv (myprog.py:6" in line for line in hang.lines), hang.lines


@pytest.mark.full
def test_a_script_that_is_stopped(tmp_path: Path) -> None:
    folder = make_script_job(tmp_path / "job", LOOPS, ranks=2)
    marker = uuid.uuid4().hex
    job = start(folder, marker, VLLM_HPC_STALL_S="4")
    log = folder.rank_log(1)
    wait_for(lambda: log.exists() and "looping" in log.read_text(), "it has got on")
    (stopped,) = [record.pid for record in folder.records_of([1])]
    os.kill(stopped, signal.SIGSTOP)
    out, _ = job.communicate(timeout=180)
    wait_for(lambda: not left(marker), f"no process is left: {left(marker)}", 60)
    hang = DebugFiles(folder).read_hang(1)
    assert hang is not None, out
    assert (hang.kind, hang.odd) == ("stopped", (1,))
    assert "stopped by a signal (T), last seen at " in hang.lines[0]
    assert "myprog.py:" in hang.lines[0]
