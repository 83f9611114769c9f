"""vllm-hpc debug: what it prints, whom it asks, and what it refuses in one line."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.jobfolder.debug_records import Collective, DebugFiles, Frame, Hang, RankView, Recorded
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.status import Status, read_status

pytestmark = [pytest.mark.programs, pytest.mark.timeout(60)]
SITE = Frame("/home/u/myprog.py", 31, "main")


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobFolder:
    """A job that runs on two ranks, whatever its scheduler would say."""
    folder = crafted.make_job(tmp_path / "job", shape=crafted.layout(tp=2))
    crafted.start(folder)
    for number in range(2):
        crafted.rank(folder, number, "running")
        folder.heartbeat(number).touch()

    def running(given: JobFolder) -> Status:
        found = read_status(given)
        return found if given.exit_of(1) else msgspec.structs.replace(found, state="RUNNING", reason="generating")

    monkeypatch.setattr("vllm_hpc.jobs.debug.read_status", running)
    return folder


@contextmanager
def answering(folder: JobFolder, *views: RankView) -> Iterator[None]:
    """Ranks that answer the next question."""
    files, over = DebugFiles(folder), threading.Event()
    number = files.last_number() + 1

    def answer() -> None:
        while not files.asked(number).exists() and not over.is_set():
            time.sleep(0.01)
        for view in views if not over.is_set() else ():
            write_json(files.answer(number, view.rank), view)

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def view(rank: int, **more: object) -> RankView:
    given = {"rank": rank, "attempt": 1, "host": "node-1", "pid": 100 + rank, "source": "rank", "at": 5.0, **more}
    return msgspec.convert(given, RankView)


WAITS = view(
    0, stack=(SITE,), collective=Collective(operation="barrier", site=SITE), phase="run", still_s=12.3, steps=57,
    last_row=8, process="S", waits_in="futex_do_wait", cpu_percent=1.5, gpu="97 %, 70 MiB of 80 MiB",
    recorded=(Recorded(operation="nccl:all_reduce", sequence=9, state="started"),),
)  # fmt: skip
STOPPED = view(1, source="agent", stack=(msgspec.structs.replace(SITE, line=40),), process="T", seen_s=3.0, phase="run")


def test_it_prints_who_waits_for_whom_the_odd_one_first(job: JobFolder, run_cli: Cli) -> None:
    with answering(job, WAITS, STOPPED):
        outcome = run_cli("debug", job.path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0].endswith(": 2 of 2 ranks answered")
    assert lines[1] == "rank 1 (node-1): stopped by a signal (T), last seen at myprog.py:40 in main"
    assert lines[2] == "rank 0 waits in barrier (myprog.py:31 in main)"
    assert lines[4] == ("rank 1 (node-1, pid 101): seen by its node's torchrun; stack of 3 s ago; 'run'; process T")
    assert lines[5] == "  /home/u/myprog.py:40 in main"
    assert lines[7] == (
        "rank 0 (node-1, pid 100): 'run' for 12 s; 57 steps; last row 8; process S in futex_do_wait; 2 % of a core; "
        "GPU 97 %, 70 MiB of 80 MiB; flight recorder: nccl:all_reduce 9 (started)"
    )


def test_of_the_users_code_it_shows_no_more_than_that(job: JobFolder, run_cli: Cli) -> None:
    own = tuple(Frame("/x/vllm_hpc/engine/programs/main_module.py", line, "run_as_main") for line in range(3))
    with answering(job, msgspec.structs.replace(WAITS, stack=(SITE, *own)), STOPPED):
        lines = run_cli("debug", job.path).out.splitlines()
    assert lines[-2:] == ["  /home/u/myprog.py:31 in main", "  ... 3 more: --json has them all"]
    with answering(job, msgspec.structs.replace(WAITS, stack=own), STOPPED):
        assert "main_module.py:0 in run_as_main" in run_cli("debug", job.path).out


def test_as_json(job: JobFolder, run_cli: Cli) -> None:
    with answering(job, WAITS, STOPPED):
        outcome = run_cli("debug", job.path, "--json")
    found = json.loads(outcome.out)
    assert (found["kind"], found["odd"], found["silent"], found["state"]) == ("stopped", [1], [], "RUNNING")
    assert found["ranks"][0]["collective"]["operation"] == "barrier"
    assert found["lines"][0].startswith("rank 1 (node-1): stopped")


def test_ranks_that_do_not_answer(job: JobFolder, run_cli: Cli) -> None:
    """One of two is named; of none the exit code says it."""
    os.utime(job.heartbeat(1), (1000, 1000))
    with answering(job, WAITS):
        outcome = run_cli("debug", job.path, "--timeout", "0.5")
    assert outcome.code == 0
    assert "1 of 2 ranks answered" in outcome.out
    assert "rank 1 (node-1): does not answer, nor does its node; its last sign of life is" in outcome.out
    assert run_cli("debug", job.path, "--timeout", "0.1").code == 1
    crafted.rank(job, 0, "ok")
    assert run_cli("debug", job.path, "--timeout", "0.1").code == 1, "rank 0 has ended, and was not asked"


def test_answers_to_earlier_questions_are_removed_and_not_taken(job: JobFolder, run_cli: Cli) -> None:
    with answering(job, WAITS, STOPPED):
        run_cli("debug", job.path)
    assert run_cli("debug", job.path, "--timeout", "0.1").code == 1
    assert [path.name for path in (job.path / "state").glob("debug-*")] == ["debug-2"]
    assert DebugFiles(job).last_number() == 2


def test_a_job_that_ended_for_a_hang_still_tells(job: JobFolder, run_cli: Cli) -> None:
    hang = Hang(
        attempt=1, found_by=0, why="one step took 900 s", at=1000.0, lines=("rank 1 (node-1): stopped", "rank 0 waits"),
        kind="stopped", odd=(1,), views=(WAITS, STOPPED),
    )  # fmt: skip
    write_json(DebugFiles(job).hang(1), hang)
    crafted.end(job, 1)
    outcome = run_cli("debug", job.path)
    assert outcome.code == 0
    assert "attempt 1 was ended, for rank 0 found: one step took 900 s\nrank 1 (node-1): stopped\n" in outcome.out
    assert DebugFiles(job).last_number() == 0, "nobody is asked"


@pytest.mark.parametrize("at", [1e300, -1e300, 1e18])
def test_a_time_that_no_clock_has(job: JobFolder, run_cli: Cli, at: float) -> None:
    """A hang's record may say anything: the time was no more printed than the rest."""
    write_json(DebugFiles(job).hang(1), Hang(attempt=1, found_by=0, why="it hung", at=at, lines=("rank 0 waits",)))
    crafted.end(job, 1)
    outcome = run_cli("debug", job.path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{at:g} s: attempt 1 was ended, for rank 0 found: it hung\nrank 0 waits\n"


def test_a_job_that_has_ended_otherwise(job: JobFolder, run_cli: Cli) -> None:
    crafted.end(job, 3)
    outcome = run_cli("debug", job.path)
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("Error: no rank is left to ask: the job is FAILED: ")
    assert outcome.err.count("\n") == 1


def test_a_job_without_a_rank_yet(job: JobFolder, run_cli: Cli) -> None:
    for number in range(2):
        job.rank_record(number).unlink()
    outcome = run_cli("debug", job.path)
    assert outcome.code == 1
    assert outcome.err == "Error: no rank runs yet: the job is RUNNING (generating): try again later\n"


def test_another_users_job_is_not_asked(job: JobFolder, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    outcome = run_cli("debug", job.path)
    assert (outcome.code, outcome.err) == (
        2, f"Error: {str(job.path)!r} is a job of another user: only they can debug it\n"
    )  # fmt: skip
    assert DebugFiles(job).last_number() == 0


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf", "3601", "soon", "", "1e999"])
def test_timeouts_that_are_none(job: JobFolder, run_cli: Cli, given: str) -> None:
    outcome = run_cli("debug", job.path, "--timeout", given)
    assert outcome.code == 2
    assert outcome.err.count("\n") == 1
    assert outcome.err.startswith("Error: ")
    assert DebugFiles(job).last_number() == 0


def test_hostile_names_in_stacks_are_shown_harmless(job: JobFolder, run_cli: Cli) -> None:
    frame = Frame("/home/u/\x1b[31mred\n\x00.py", 1, "f\x1b]0;title\x07")
    with answering(job, view(0, stack=(frame,)), STOPPED):
        out = run_cli("debug", job.path).out
    assert "\x1b" not in out
    assert "\x00" not in out


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"rank": 0}'])
def test_damaged_answers_are_no_answers(job: JobFolder, run_cli: Cli, content: bytes) -> None:
    folder = DebugFiles(job).answers(1)
    folder.mkdir()
    (folder / "rank-0.json").write_bytes(content)
    outcome = run_cli("debug", job.path, "--timeout", "0.1")
    assert outcome.code == 1
    assert "0 of 2 ranks answered" in outcome.out


def test_a_link_in_place_of_the_answers_is_refused(job: JobFolder, tmp_path: Path, run_cli: Cli) -> None:
    (tmp_path / "outside").mkdir()
    DebugFiles(job).answers(1).symlink_to(tmp_path / "outside")
    outcome = run_cli("debug", job.path)
    assert outcome.code == 1
    assert outcome.err.count("\n") == 1
    assert "it must be a folder, not a link" in outcome.err
