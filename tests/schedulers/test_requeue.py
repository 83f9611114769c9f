"""Whether a job runs again after an attempt: every answer, and its words in the scheduler's log."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import LAUNCHER_LOST, Claimed, Crash, Progress, RankError, Retry, Run
from vllm_hpc.schedulers.in_script import requeue
from vllm_hpc.schedulers.in_script.requeue import main, note_fatal_signals, should_run_again
from vllm_hpc.spec.layout import Layout

LOST = "its ranks ended normally, but not with every row"


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job of ten rows over two replicas, in its first attempt; four rows are done, one has an error."""
    folder = crafted.make_job(tmp_path / "job", 10, shape=crafted.layout(dp=2))
    crafted.start(folder)
    write(folder, 1, 5)
    return folder


def write(folder: JobFolder, attempt: int, rows: int, done: int = 4, failed: int = 1) -> None:
    """The counts of replica 0, which wrote ``rows`` in that attempt."""
    runs = (Run(attempt=attempt, rows=rows),)
    write_json(folder.progress(0), Progress(replica=0, attempt=attempt, done=done, failed=failed, runs=runs))


def claim(folder: JobFolder, attempt: int = 1, replica: int = 1, **line: Any) -> None:
    folder.claimed(replica, attempt).write_bytes(msgspec.json.encode(Claimed(**(line or {"chunk": 0}))) + b"\n")


def crash(folder: JobFolder, attempt: int = 1) -> None:
    claim(folder, attempt)
    write_json(folder.crash(1, attempt), Crash(1, "RuntimeError", "illegal address"))


def drain(folder: JobFolder, attempt: int = 1) -> None:
    folder.drain_attempt(attempt).touch()


def limited(folder: JobFolder, most: int) -> None:
    job = folder.job()
    request = msgspec.structs.replace(job.request, max_requeues=most)
    write_json(folder.job_json, msgspec.structs.replace(job, request=request))


def all_rows(folder: JobFolder, attempt: int = 1) -> None:
    write(folder, attempt, 10, done=9)


def test_a_good_end_is_the_end(folder: JobFolder) -> None:
    all_rows(folder)
    assert should_run_again(folder, 1, 0) == (False, "it ended normally")


def test_an_end_without_every_row_is_none(folder: JobFolder) -> None:
    """As where another user moved what the ranks count together."""
    assert should_run_again(folder, 1, 0) == (False, "it ended normally"), "no rank has begun"
    crafted.rank(folder, 0, "ok")
    assert should_run_again(folder, 1, 0) == (True, f"{LOST}; 5 rows left")
    limited(folder, 0)
    assert should_run_again(folder, 1, 0)[0] is False


def test_it_is_tried_as_often_as_it_gets_on(folder: JobFolder) -> None:
    crafted.start(folder, 2)
    crafted.rank(folder, 0, "ok", attempt=2)
    assert should_run_again(folder, 2, 0) == (True, f"{LOST}; 5 rows left")
    crafted.start(folder, 3)
    crafted.rank(folder, 0, "ok", attempt=3)
    assert should_run_again(folder, 3, 0) == (False, "two attempts in a row finished no row")


@pytest.mark.parametrize("stopped", ["cancelled", "drain"])
def test_who_stopped_it_wants_no_other_attempt(folder: JobFolder, stopped: str) -> None:
    crafted.rank(folder, 0, "ok")
    getattr(folder, stopped).touch()
    assert should_run_again(folder, 1, 0)[0] is False


def test_rows_that_show_late_are_waited_for(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another node wrote."""
    job = folder.job()
    layout = Layout(nodes=2, gpus_per_node=1, procs_per_node=1, tp=1, pp=1, dp=2)
    write_json(folder.job_json, msgspec.structs.replace(job, plan=msgspec.structs.replace(job.plan, layout=layout)))
    monkeypatch.setattr(requeue, "_AGAIN_S", 0.01)
    crafted.rank(folder, 0, "ok")
    threading.Timer(0.2, all_rows, [folder]).start()
    assert should_run_again(folder, 1, 0) == (False, "it ended normally")


def test_rows_that_a_task_of_an_array_leaves_are_the_others(tmp_path: Path) -> None:
    folder = crafted.make_array(tmp_path / "job", 2, 6)
    crafted.start(folder, 1, 0)
    crafted.progress(folder, done=3, replica=0)
    crafted.rank(folder, 0, "ok")
    assert should_run_again(folder, 1, 0) == (False, "it ended normally")


def test_after_a_drain_it_goes_on(folder: JobFolder) -> None:
    drain(folder)
    assert should_run_again(folder, 1, 0) == (True, "the walltime was almost reached; 5 rows left")


def test_a_drain_of_another_attempt_is_none(folder: JobFolder) -> None:
    drain(folder)
    crafted.start(folder, 2)
    all_rows(folder, 2)
    assert should_run_again(folder, 2, 0) == (False, "it ended normally")


def test_after_a_crash_it_goes_on(folder: JobFolder) -> None:
    crash(folder)
    assert should_run_again(folder, 1, 1) == (True, "a rank died; 5 rows left")


def test_where_no_row_ever_lived_it_is_the_engine(folder: JobFolder) -> None:
    write(folder, 1, 2, done=0, failed=1)
    for attempt, row in ((2, 0), (3, 0), (4, 1)):
        crafted.start(folder, attempt)
        crash(folder, attempt)
        claim(folder, attempt, trial=[row])
    assert should_run_again(folder, 3, 1)[0]
    again, why = should_run_again(folder, 4, 1)
    assert (again, "the rows are not the cause" in why) == (False, True)
    write(folder, 1, 2, done=1, failed=1)
    assert should_run_again(folder, 4, 1)[0]


LAUNCH = "CUDA error: unspecified launch failure (pid {})"


def died(folder: JobFolder, attempt: int, message: str, **line: Any) -> None:
    """An attempt in which no row was finished, and whose engine said so."""
    if attempt > 1:
        crafted.start(folder, attempt)
        crafted.end(folder, 1, "requeue", attempt - 1)
    claim(folder, attempt, **line)
    write_json(folder.crash(1, attempt), Crash(1, "RuntimeError", message))


@pytest.mark.inputs
def test_a_fault_that_a_probe_has_too_is_the_machines(folder: JobFolder) -> None:
    write(folder, 1, 0, done=0, failed=0)
    died(folder, 1, LAUNCH.format(7))
    assert should_run_again(folder, 1, 1)[0]
    died(folder, 2, LAUNCH.format(81), probe=True)
    assert should_run_again(folder, 2, 1) == (
        False,
        "attempts 1 and 2 ended alike before a row was finished, and no row is the cause: RuntimeError: CUDA error: "
        "unspecified launch failure (pid 81); correct that, then run 'vllm-hpc resume'",
    )


@pytest.mark.inputs
def test_a_fault_that_no_row_can_cause_is_the_machines_without_a_probe(folder: JobFolder) -> None:
    write(folder, 1, 0, done=0, failed=0)
    for attempt in (1, 2):
        died(folder, attempt, "Failed to find C compiler. Please specify via CC environment variable.", trial=[3, 4])
    assert "and no row is the cause" in should_run_again(folder, 2, 1)[1]
    write(folder, 1, 1, done=1, failed=0)  # others may need it
    assert should_run_again(folder, 2, 1)[0]


@pytest.mark.inputs
def test_a_fault_of_rows_alone_is_looked_for_among_them(folder: JobFolder) -> None:
    write(folder, 1, 0, done=0, failed=0)
    for attempt in (1, 2, 3):
        died(folder, attempt, LAUNCH.format(attempt), trial=[3, 4])
        assert should_run_again(folder, attempt, 1)[0]


@pytest.mark.inputs
def test_a_resume_compares_anew(folder: JobFolder) -> None:
    write(folder, 1, 0, done=0, failed=0)
    died(folder, 1, LAUNCH.format(7))
    died(folder, 2, LAUNCH.format(8), probe=True)
    write_json(folder.attempt(2), msgspec.structs.replace(folder.attempts()[1], job_id="78-1000"))
    assert should_run_again(folder, 2, 1)[0]


@pytest.mark.inputs
def test_a_signal_that_ended_a_rank_is_recorded_as_a_crash(folder: JobFolder) -> None:
    """From then on it counts as an error of the engine: its rows are tried at once, and two alike are compared."""
    claim(folder, replica=0)
    for rank, log in enumerate(["Fatal Python error: Illegal instruction\n", "killed\n"]):
        crafted.rank(folder, rank, "running")
        folder.rank_log(rank).write_text(f"-- rank {rank} on node-1, 2026-11-30 06:40:31\n{log}")
    note_fatal_signals(folder, 1)
    crashes = sorted(path.name for path in (folder.path / "state").glob("crash-*"))
    assert crashes == ["crash-0.1.json"]
    assert read_json(folder.crash(0, 1), Crash) == Crash(0, "SIGILL", "an illegal instruction")
    assert should_run_again(folder, 1, 1)[0]


@pytest.mark.inputs
@pytest.mark.parametrize(
    "why", ["no row was begun", "it was told to leave", "an engine has said why", "another attempt"]
)
def test_no_other_signal_is(folder: JobFolder, why: str) -> None:
    if why != "no row was begun":
        claim(folder, replica=0)
    if why == "an engine has said why":
        write_json(folder.crash(0, 1), Crash(1, "RuntimeError", "no"))
    crafted.rank(folder, 0, "terminated" if why == "it was told to leave" else "running", attempt=1)
    folder.rank_log(0).write_text("-- rank 0 on node-1, 2026-11-30\nFatal Python error: Aborted\n")
    if why == "another attempt":
        crafted.start(folder, 2)
        claim(folder, 2, replica=0)
    note_fatal_signals(folder, 2 if why == "another attempt" else 1)
    assert read_json(folder.crash(0, 2 if why == "another attempt" else 1), Crash) == (
        Crash(1, "RuntimeError", "no") if why == "an engine has said why" else None
    )


def test_before_a_row_was_begun_an_error_would_come_back(folder: JobFolder) -> None:
    crafted.rank(folder, 0, "error", error=crafted.error("no such model"))
    assert should_run_again(folder, 1, 1) == (False, "another attempt would end the same way")
    drain(folder)
    assert should_run_again(folder, 1, 1) == (False, "another attempt would end the same way")


@pytest.mark.parametrize(
    ("ranks", "again"),
    [
        ([("running", None), ("error", "echo")], True),  # one vanished
        ([("terminated", "lost"), ("error", "echo")], True),
        ([("terminated", None), ("error", "echo")], False),  # nobody vanished
        ([("running", None), ("error", "own")], False),  # a full disk, say
        ([("terminated", "lost"), ("error", "own")], False),
        ([("ok", None), ("ok", None)], False),
        ([], False),
    ],
)
def test_who_died_while_rows_were_in_flight(
    folder: JobFolder, ranks: list[tuple[str, str | None]], again: bool
) -> None:
    claim(folder)
    errors = {None: None, "lost": crafted.error("lost"), "own": crafted.error("full"), "echo": crafted.error("e", True)}
    for number, (outcome, error) in enumerate(ranks):
        crafted.rank(folder, number, outcome, error=errors[error])
    assert should_run_again(folder, 1, 1)[0] is again


@pytest.mark.inputs
def test_that_torchrun_was_killed_is_said(folder: JobFolder) -> None:
    claim(folder)
    crafted.rank(folder, 0, "terminated", error=RankError(LAUNCHER_LOST, "it was killed", ""))
    crafted.rank(folder, 1, "error", error=crafted.error("the store is gone", True))
    why = "what starts the ranks (torchrun, or srun's step) was killed; 5 rows left"
    assert should_run_again(folder, 1, 137) == (True, why)


def test_what_a_rank_said_in_an_earlier_attempt_does_not_count(folder: JobFolder) -> None:
    crafted.start(folder, 2)
    claim(folder, 2)
    crafted.rank(folder, 0, "running", attempt=1)
    assert should_run_again(folder, 2, 1) == (False, "another attempt would end the same way")


@pytest.mark.parametrize(("code", "begin"), [(0, drain), (1, crash)])
def test_what_speaks_against_it(folder: JobFolder, code: int, begin: Any) -> None:
    begin(folder)
    folder.drain.touch()
    assert should_run_again(folder, 1, code) == (
        False,
        "control/drain tells it to stop; to continue, run 'vllm-hpc resume'",
    )
    folder.cancelled.touch()
    assert should_run_again(folder, 1, code) == (False, "it was cancelled")
    write(folder, 1, 10, done=8, failed=2)
    assert should_run_again(folder, 1, code) == (False, "every row is done")


def test_so_many_requeues_and_no_more(folder: JobFolder) -> None:
    limited(folder, 2)
    for attempt in (1, 2, 3):
        crafted.start(folder, attempt)
        drain(folder, attempt)
        write(folder, attempt, 1)
        again, why = should_run_again(folder, attempt, 0)
        assert again is (attempt < 3)
        crafted.end(folder, 0, "requeue", attempt)
    assert why == "it has asked for another attempt 2 times (--max-requeues 2)"


@pytest.mark.parametrize("cause", ["TERM", "exit", None])
def test_requeues_of_the_schedulers_own_are_not_counted(folder: JobFolder, cause: str | None) -> None:
    """Preempted, requeued by hand, or with a node that was lost: not asked for by the script."""
    limited(folder, 1)
    for attempt in (1, 2, 3):
        crafted.start(folder, attempt)
        if cause:
            crafted.end(folder, 143, cause, attempt)
    write(folder, 4, 1)
    crafted.start(folder, 4)
    drain(folder, 4)
    assert should_run_again(folder, 4, 0)[0]
    crafted.end(folder, 0, "requeue", 2)
    assert should_run_again(folder, 4, 0) == (False, "it has asked for another attempt 1 time (--max-requeues 1)")


def test_a_resume_counts_anew(folder: JobFolder) -> None:
    limited(folder, 1)
    crafted.start(folder, 2)
    write_json(folder.attempt(3), msgspec.structs.replace(folder.attempts()[0], attempt=3, job_id="78-1000"))
    crafted.end(folder, 0, "requeue", 1)
    drain(folder, 2)
    drain(folder, 3)
    assert [should_run_again(folder, attempt, 0)[0] for attempt in (2, 3)] == [False, True]


def test_two_attempts_that_finish_nothing_are_enough(folder: JobFolder) -> None:
    write(folder, 1, 0)
    drain(folder)
    assert should_run_again(folder, 1, 0)[0]  # the first may have had a slow start
    crafted.start(folder, 2)
    drain(folder, 2)
    assert should_run_again(folder, 2, 0) == (
        False,
        "two attempts in a row finished no row; ask for a longer --time",
    )
    crash(folder, 2)
    assert should_run_again(folder, 2, 1)[0] is False
    claim(folder, 2, trial=[3])
    assert should_run_again(folder, 2, 1)[0]  # it looked for the row that kills


def test_after_two_deaths_in_a_row_a_third_attempt_looks_for_the_row_that_kills(folder: JobFolder) -> None:
    """Ranks that vanish may have been killed from outside: rows are tried for it when it happens twice."""
    write(folder, 1, 0)
    claim(folder)
    crafted.rank(folder, 0, "running")
    assert should_run_again(folder, 1, 1)[0]
    crafted.end(folder, 1, "requeue", 1)
    for attempt, goes_on in ((2, True), (3, False)):
        crafted.start(folder, attempt)
        claim(folder, attempt)
        crafted.rank(folder, 0, "running", attempt=attempt)
        again, why = should_run_again(folder, attempt, 1)
        assert again is goes_on, why
        crafted.end(folder, 1, "requeue", attempt)
    assert why == "three attempts in a row finished no row"
    claim(folder, 3, trial=[3])
    assert should_run_again(folder, 3, 1)[0]


def test_a_task_of_an_array_looks_at_its_own_replica(tmp_path: Path) -> None:
    folder = crafted.make_array(tmp_path / "job", 2, 10)
    crafted.start(folder, 1, task=0)
    crafted.start(folder, 2, task=1)
    crash(folder, 2)  # of replica 1
    crafted.rank(folder, 0, "running", attempt=1)
    assert should_run_again(folder, 1, 1) == (False, "another attempt would end the same way")
    assert should_run_again(folder, 2, 1)[0]


def test_a_full_disk_is_no_reason_to_run_again(folder: JobFolder) -> None:
    """A rank that dies of it cannot say so: its record stays as it was, like that of one that vanished."""
    claim(folder)
    crafted.rank(folder, 0, "running")
    assert should_run_again(folder, 1, 1)[0]
    program = (
        "import resource, sys; from vllm_hpc.schedulers.in_script.requeue import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000)); sys.exit(main(sys.argv[1:]))"
    )
    before = sorted(folder.path.rglob("*"))
    # -B: Python would leave half of a module's bytecode, for every later process to stumble over.
    command = [sys.executable, "-B", "-c", program, str(folder.path), "1", "1"]
    ran = subprocess.run(command, capture_output=True, text=True)
    said = "the job folder cannot be written: File too large; free some space, then run 'vllm-hpc resume'"
    assert (ran.returncode, ran.stdout) == (1, f"vllm-hpc: not running again: {said}\n")
    assert sorted(folder.path.rglob("*")) == before


def test_its_words_and_exit_codes(folder: JobFolder, capsys: pytest.CaptureFixture[str]) -> None:
    all_rows(folder)
    assert main([str(folder.path), "1", "0"]) == 1
    drain(folder)
    write(folder, 1, 5)
    assert main([str(folder.path), "1", "0"]) == 0
    assert capsys.readouterr().out == (
        "vllm-hpc: not running again: it ended normally\n"
        "vllm-hpc: running again: the walltime was almost reached; 5 rows left\n"
    )


@pytest.mark.parametrize(
    ("rows", "again", "why"),
    [(6, True, "the walltime was almost reached; 2 rows left"), (4, False, "every row is done")],
)
def test_rows_that_two_tasks_wrote_do_not_stand_for_others(tmp_path: Path, rows: int, again: bool, why: str) -> None:
    folder = crafted.make_array(tmp_path / "job", 2, rows)
    for task, indices in enumerate([(0, 1, 2), (1, 2, 3)]):
        crafted.start(folder, task + 1, task)
        crafted.progress(folder, done=3, replica=task)
        crafted.write_lines(folder.shard(task, task + 1), [crafted.result(index) for index in indices])
    drain(folder, 2)
    assert should_run_again(folder, 2, 0) == (again, why)


def test_errors_that_are_run_again_are_rows_that_are_left(tmp_path: Path) -> None:
    folder = crafted.make_array(tmp_path / "job", 2, 2)
    failed = {"index": 1, "id": "1", "error": {"type": "X", "message": ""}}
    crafted.write_lines(folder.shard(0, 1), [crafted.result(0), failed])
    crafted.write_lines(folder.shard(1, 2), [crafted.result(0)])
    write_json(folder.retry, Retry(1))
    crafted.start(folder, 2, 1)
    for replica in (0, 1):
        crafted.progress(folder, done=1, replica=replica)
    drain(folder, 2)
    assert should_run_again(folder, 2, 0) == (True, "the walltime was almost reached; 1 row left")
