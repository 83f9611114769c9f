"""How a script may end on one of two ranks: the job ends within a minute, with what ended first as its reason."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from tests.marks import needs_torch
from tests.programs.script_jobs import completed, log_of, submit_code
from tests.real_jobs import ends_as, wait_for
from vllm_hpc import Job

LIMIT_S = 60
pytestmark = [pytest.mark.programs, pytest.mark.ranks, pytest.mark.full, needs_torch]

# Rank 1 does something else, while the other waits for it.
ONE_RANK = """
import os, signal, sys, torch, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == {rank}:
    {deed}
dist.all_reduce(torch.ones(1))
"""
WAITS = """
import signal, time, torch.distributed as dist
{first}
dist.init_process_group("gloo")
print("ready")
while True:
    time.sleep(1)
"""


def one_rank(deed: str, work: Path, rank: int = 1) -> Job:
    return submit_code(ONE_RANK.format(deed=deed, rank=rank), work)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero (script.py:5)"),
        ("sys.exit(3)", "script.py ended with exit code 3 (script.py:5)"),
        ("sys.exit('no luck')", "script.py ended with exit code 1: no luck (script.py:5)"),
        ("os._exit(4)", "vanished without an error"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "vanished without an error"),
        ("signal.raise_signal(signal.SIGSEGV)", "script.py"),
    ],
)
def test_one_rank_fails_while_the_other_waits(tmp_path: Path, deed: str, reason: str) -> None:
    status = ends_as(one_rank(deed, tmp_path), "FAILED", LIMIT_S)
    assert status.reason is not None
    assert "rank 1" in status.reason
    assert reason in status.reason


@pytest.mark.parametrize("rank", [0, 1])
def test_one_rank_ends_well_while_the_other_waits(tmp_path: Path, rank: int) -> None:
    """As with torchrun, the other learns at once that its connection is closed; and the reason says who ended."""
    status = ends_as(one_rank("sys.exit()", tmp_path, rank), "FAILED", LIMIT_S)
    assert status.reason is not None
    assert status.reason.startswith(f"rank {1 - rank} ")
    assert f"(script.py:6; had ended by then: rank {rank})" in status.reason


@pytest.mark.parametrize(
    ("first", "outcomes"),
    [
        ("", {"terminated"}),
        ("signal.signal(signal.SIGTERM, lambda *_: print('saved'))", {"terminated"}),
        ("signal.signal(signal.SIGTERM, lambda *_: (print('saved'), exit(7)))", {"error", "terminated"}),
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)", {"terminated", "running"}),
    ],
    ids=["nothing", "handler", "handler that ends", "ignored"],
)
def test_one_that_never_ends_is_cancelled(tmp_path: Path, first: str, outcomes: set[str]) -> None:
    job = submit_code(WAITS.format(first=first), tmp_path)
    wait_for(lambda: all("ready" in log_of(job, rank) for rank in (0, 1)), "both ranks wait")
    job.cancel()
    ends_as(job, "CANCELLED", LIMIT_S)
    assert {rank.outcome for rank in job.ranks()} <= outcomes
    assert "saved" not in first or "saved" in log_of(job)


def test_ten_megabytes_of_output(tmp_path: Path) -> None:
    job = submit_code("for number in range(163840):\n    print('x' * 63)\n", tmp_path)
    completed(job)
    assert log_of(job, 1).count("x" * 63 + "\n") == 163840


def test_a_forked_process_is_terminated_and_the_rank_goes_on(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, time\nfork = multiprocessing.get_context('fork')\nfor number in range(20):\n"
        "    child = fork.Process(target=time.sleep, args=(600,))\n    child.start()\n    child.terminate()\n"
        "    child.join(60)\n    assert child.exitcode == -15, child.exitcode\n"
    )
    completed(submit_code(code, tmp_path))


def test_what_it_leaves_running_ends_with_it(tmp_path: Path) -> None:
    """A process of its own group and session, as a server has."""
    code = (
        "import subprocess, os\nchild = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "print('child', child.pid, flush=True)\n1 / 0\n"
    )
    job = submit_code(code, tmp_path, tp=1)
    ends_as(job, "FAILED", LIMIT_S)
    pid = int(log_of(job).split("child ")[1].split()[0])
    wait_for(lambda: not psutil.pid_exists(pid), "its child is gone", LIMIT_S)


def test_a_copy_that_was_changed_is_not_run_again(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\n"
        "Path(os.environ['VLLM_HPC_FOLDER'], 'program.py').write_text('print(\"something else\")')\nos._exit(4)\n"
    )
    job = submit_code(code, tmp_path, tp=1, max_requeues=1, requeue_script=True)
    status = ends_as(job, "FAILED", LIMIT_S)
    assert status.attempts == 2
    assert "was changed since the job was submitted: submit a new job" in str(status.reason)
    assert "something else" not in log_of(job)
