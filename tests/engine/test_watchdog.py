"""The thread beside a rank: what does not end ends the rank, with its stack on record; who was stopped is let be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import crafted
from vllm_hpc.engine.health import watchdog
from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.records import Crash, RankRecord

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).parents[2]

# A rank whose watch has small limits: stalled after a second and a half, its neighbour dead after two, stopped when a
# turn of a tenth of a second took more than one.
RANK = """
import sys, threading, time
from vllm_hpc.engine.health import awake_clock, watchdog
from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.jobfolder.folder import JobFolder
watchdog._LOOK_S = watchdog.HEARTBEAT_S = 0.1
watchdog._LATER_S = {Phase.STEP: 0.2, Phase.AGREE: 0.4}
awake_clock.STOPPED_S = 1.0
folder = JobFolder(sys.argv[1])
report = RankReport(folder, 0, 0, 1)
report.on_leave = lambda: print("flushed", flush=True)
watchdog.start(report, 1.5, 2.0)
def hang_in_a_step():
    report.enter(Phase.STEP)
    threading.Event().wait(50)
def step():
    for _ in range(25):
        report.enter(Phase.STEP)
        time.sleep(0.1)
        report.enter(Phase.WRITE)
def hang_between_steps(phase):
    report.enter(Phase.STEP)
    report.enter(phase, "17")
    threading.Event().wait(50)
def claim(): hang_between_steps(Phase.CLAIM)
def read(): hang_between_steps(Phase.READ)
def admit(): hang_between_steps(Phase.ADMIT)
def write(): hang_between_steps(Phase.WRITE)
def agree(): hang_between_steps(Phase.AGREE)
def get_on_without_a_step():
    for row in range(25):
        report.enter(Phase.ADMIT, "17")
        time.sleep(0.1)
def leave():
    report.enter(Phase.WRITE)
    report.leave_loop()
    time.sleep(2.5)
def wait_in_a_step():
    report.neighbour = 1
    report.enter(Phase.STEP)
    print("waiting", flush=True)
    sys.stdin.readline()
    report.leave_loop()
def wait_for_a_neighbour():
    report.neighbour = 1
    threading.Event().wait(50)
def wait_in_asyncio():
    import asyncio, signal
    async def wait():
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR2, print)
        print("waiting", flush=True)
        await asyncio.sleep(20)
    asyncio.run(wait())
{0}()
report.finished()
print("done", flush=True)
"""


def start(folder: JobFolder, what: str) -> subprocess.Popen[str]:
    code = RANK.replace("{0}", what)
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", code, str(folder.path)]
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)


def run(folder: JobFolder, what: str) -> tuple[int, str, str]:
    rank = start(folder, what)
    out, log = rank.communicate()
    return rank.returncode, out, log


def error_of(folder: JobFolder) -> tuple[str, str, str, bool]:
    """The rank's outcome, and its error's type, message and whether it is an echo."""
    record = read_json(folder.rank_record(0), RankRecord)
    assert record is not None
    assert record.error is not None
    return record.outcome, record.error.type, record.error.message, record.error.is_echo


def test_a_step_that_does_not_end(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    code, out, log = run(folder, "hang_in_a_step")
    assert (code, out) == (143, "flushed\n")
    assert "in hang_in_a_step" in log
    outcome, kind, message, is_echo = error_of(folder)
    assert (outcome, kind, is_echo) == ("error", "TimeoutError", False)
    assert message.startswith("the engine has been in one step for more than 1.5 s")
    assert folder.failed(1).exists()
    assert folder.heartbeat(0).exists()
    crash = read_json(folder.crash(0, 1), Crash)
    assert crash is not None
    assert crash.type == "TimeoutError"


@pytest.mark.parametrize(
    ("phase", "kind", "words"),
    [
        (
            "claim",
            "TimeoutError",
            "the rank has been claiming rows for more than 1.5 s: the job folder's file system or",
        ),
        ("read", "TimeoutError", "the rank has been waiting for a row for more than 1.5 s: the input's file"),
        (
            "admit",
            "TimeoutError",
            "the rank has been admitting row 17 for more than 1.5 s: vLLM, or the row's",
        ),
        (
            "write",
            "TimeoutError",
            "the rank has been waiting to hand over finished rows for more than 1.5 s: the job folder",
        ),
        (
            "agree",
            "PeerStalledError",
            "the rank has been waiting for its replica's other ranks for more than 1.5 s: one of",
        ),
    ],
)
def test_a_hang_between_steps_is_no_crash(tmp_path: Path, phase: str, kind: str, words: str) -> None:
    """It ends the rank as one in a step does, but no row is suspected; who waits for others only echoes them."""
    folder = crafted.make_job(tmp_path / "job")
    code, out, log = run(folder, phase)
    assert (code, out) == (143, "flushed\n")
    assert "in hang_between_steps" in log
    outcome, found, message, is_echo = error_of(folder)
    assert (outcome, found, is_echo) == ("error", kind, phase == "agree")
    assert message.startswith(f"between two steps of the engine {words}")
    assert "then run 'vllm-hpc resume' (longer waits: --env VLLM_HPC_STALL_S=SECONDS)" in message
    assert not folder.crash(0, 1).exists()


def test_whose_rank_hangs_says_so_before_those_that_wait_for_it() -> None:
    """Else a rank that waits in a collective would put its rows on trial for another's full file system."""
    margin = watchdog.LINGER_S + watchdog.HEARTBEAT_S
    between = [watchdog._LATER_S.get(phase, 0.0) for phase in Phase if phase not in (Phase.STEP, Phase.AGREE)]
    assert max(between) + margin < watchdog._LATER_S[Phase.STEP]
    assert watchdog._LATER_S[Phase.STEP] + margin < watchdog._LATER_S[Phase.AGREE]


@pytest.mark.parametrize("what", ["step", "get_on_without_a_step", "leave"])
def test_who_gets_on_or_has_left_the_loop_is_not_stalled(tmp_path: Path, what: str) -> None:
    folder = crafted.make_job(tmp_path / "job")
    assert run(folder, what)[:2] == (0, "done\n")
    assert not folder.crash(0, 1).exists()


def test_a_rank_whose_code_has_taken_the_wake_up_pipe_still_leaves_when_told(tmp_path: Path) -> None:
    rank = start(crafted.make_job(tmp_path / "job"), "wait_in_asyncio")
    assert rank.stdout is not None
    assert rank.stdout.readline() == "waiting\n"
    rank.terminate()
    out, _ = rank.communicate()
    assert (rank.returncode, out) == (143, "flushed\nvllm-hpc: told to leave\n")


def stop(rank: subprocess.Popen[str], folder: JobFolder, seconds: float) -> None:
    """Stop a rank that has begun to beat, for so long, and wait until it has woken."""
    wait_for(folder.heartbeat(0).exists)
    rank.send_signal(signal.SIGSTOP)
    time.sleep(seconds)  # what is tested is that this time passes, and is not counted
    asleep = folder.heartbeat(0).stat().st_mtime
    rank.send_signal(signal.SIGCONT)
    wait_for(lambda: folder.heartbeat(0).stat().st_mtime > asleep)


def wait_for(is_true: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.mark.slow
def test_a_rank_that_was_stopped_in_a_step_is_neither_stalled_nor_alone(tmp_path: Path) -> None:
    """As by scontrol suspend, longer than any limit: its neighbour, stopped too, has not beaten since."""
    folder = crafted.make_job(tmp_path / "job")
    rank = start(folder, "wait_in_a_step")
    assert rank.stdout is not None
    assert rank.stdout.readline() == "waiting\n"
    crafted.rank(folder, 1, "running")
    folder.heartbeat(1).touch()
    stop(rank, folder, 4.0)
    out, _ = rank.communicate("go on\n")
    assert (rank.returncode, out) == (0, "done\n")
    assert not folder.crash(0, 1).exists()


@pytest.mark.slow
def test_a_rank_that_was_stopped_is_still_watched(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    rank = start(folder, "hang_in_a_step")
    stop(rank, folder, 2.0)
    assert "in hang_in_a_step" in rank.communicate()[1]
    assert error_of(folder)[1] == "TimeoutError"


@pytest.mark.slow
def test_a_neighbour_that_does_not_wake_is_dead(tmp_path: Path) -> None:
    folder = crafted.make_job(tmp_path / "job")
    rank = start(folder, "wait_for_a_neighbour")
    crafted.rank(folder, 1, "running")
    folder.heartbeat(1).touch()
    stop(rank, folder, 2.0)
    rank.communicate()
    assert error_of(folder)[:3] == ("terminated", "PeerLost", "rank 1 has shown no sign of life for 2 s")


# A rank whose torchrun is killed: torchrun's store is gone first, and the main thread meets that before, while or after
# the watch does.
STARTER = """
import os, subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", sys.argv[2], sys.argv[1]], start_new_session=True)
sys.stdin.read()
"""
LOSES_STORE = """
import os, sys, time
from vllm_hpc.engine.health import watchdog
from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.jobfolder.folder import JobFolder
class DistNetworkError(RuntimeError): pass
folder = JobFolder(sys.argv[1])
report = RankReport(folder, 0, 0, 1)
report.on_leave = lambda: time.sleep(FLUSH)
starter = os.getppid()
launcher = watchdog.start(report, 100.0, 100.0)
folder.claimed(0, 1).touch()
while os.getppid() == starter:
    time.sleep(0.01)
time.sleep(LATER)
try:
    raise DistNetworkError("Connection reset by peer")
except Exception as error:
    watchdog.record_error(report, launcher, error)
    raise
"""


@pytest.mark.inputs
@pytest.mark.parametrize(("flush", "later"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.3)], ids=["at once", "before", "amid"])
def test_a_rank_whose_torchrun_was_killed_says_so_and_not_what_follows(
    tmp_path: Path, flush: float, later: float
) -> None:
    folder = crafted.make_job(tmp_path / "job")
    rank = LOSES_STORE.replace("FLUSH", str(flush)).replace("LATER", str(later))
    starter = subprocess.Popen([sys.executable, "-c", STARTER, str(folder.path), rank], stdin=subprocess.PIPE, cwd=ROOT)
    wait_for(folder.claimed(0, 1).exists)
    starter.kill()
    starter.wait()

    def outcome() -> str:
        record = read_json(folder.rank_record(0), RankRecord)
        return record.outcome if record else ""

    wait_for(lambda: outcome() not in ("", "running"))
    record = read_json(folder.rank_record(0), RankRecord)
    assert record is not None and record.error is not None
    assert (record.outcome, record.error.type, record.has_raised) == ("terminated", "LauncherLost", False)


@pytest.mark.inputs
def test_an_echo_beside_a_torchrun_that_lives_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "_DYING_S", 0.1)
    folder = crafted.make_job(tmp_path / "job")
    launcher = watchdog.Launcher(os.getppid(), watchdog._parent_of(os.getppid()))
    watchdog.record_error(RankReport(folder, 0, 0, 1), launcher, RuntimeError("Connection reset by peer"))
    record = read_json(folder.rank_record(0), RankRecord)
    assert record is not None and record.error is not None
    assert (record.outcome, record.error.is_echo) == ("error", True)
