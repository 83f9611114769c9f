"""resume: what it refuses, what it runs again, and that a job which was not submitted is as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from tests.conftest import FAKE_SBATCH, Cli
from vllm_hpc.jobfolder import sorted_copy
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Retry, Submitted
from vllm_hpc.jobs import resume as resumption
from vllm_hpc.jobs.cancel import cancel
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.resume import resume
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.task_states import Verdict
from vllm_hpc.schedulers.client import ClientTimeoutError
from vllm_hpc.schedulers.lifecycle import sha256
from vllm_hpc.schedulers.scheduler import JobState, get_scheduler
from vllm_hpc.spec.errors import FailedError, InputError, SubmitError

StatusCache = Callable[[str], Any]


@pytest.fixture
def folder(desk: Path) -> JobFolder:
    """A job on Slurm that has ended: of three rows one is done, one has an error, one is missing."""
    folder = crafted.make_job(desk / "runs" / "job", 3, "slurm")
    (folder.path / "script.sbatch").write_text("#!/bin/bash\n")
    crafted.start(folder)
    crafted.end(folder, 1)
    failed = {"index": 1, "id": "1", "error": {"type": "X", "message": ""}}
    crafted.write_lines(folder.shard(0, 1), [crafted.result(0), failed])
    return folder


def sbatch(desk: Path, code: str) -> None:
    (desk / "bin" / "sbatch").write_text(f"#!/bin/sh\n{code}")


def sent(desk: Path) -> bool:
    return (desk / "bin" / "received").exists()


def says(phase: str) -> Any:
    """A scheduler that says this of every job."""

    class Said:
        def query(self, scheduler: str, folder: JobFolder, job_id: str, ids: list[str], leaving: bool) -> Any:
            return {one: JobState(phase, "in its words") for one in ids}

    return Said()


def files(folder: JobFolder) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("retry", "left"), [(False, 1), (True, 2)])
def test_it_is_submitted_again_for_what_is_left(folder: JobFolder, desk: Path, retry: bool, left: int) -> None:
    folder.drain.touch()
    folder.cancelled.touch()
    assert resume(folder, retry).left == left
    assert sent(desk)
    submitted = read_json(folder.submitted, Submitted)
    assert submitted is not None and submitted.job_id == "4711"
    assert not folder.drain.exists() and not folder.cancelled.exists()
    assert read_json(folder.retry, Retry) == (Retry(1) if retry else None)


@pytest.mark.parametrize(("phase", "state"), [("waiting", "PENDING"), ("running", "RUNNING")])
@pytest.mark.parametrize("old", ["exit record", "verdict before any attempt", "verdict"])
def test_its_state_is_the_new_submissions(folder: JobFolder, phase: str, state: str, old: str) -> None:
    """Never the old end: who read that would resume once more."""
    if old == "verdict before any attempt":  # cancelled while it waited
        folder.attempt(1).unlink()
        folder.exit_record(1).unlink()
    if old != "exit record":
        folder.exit_record(1).unlink(missing_ok=True)
        assert read_status(folder, says("cancelled")).state == "CANCELLED"
        assert read_json(folder.verdict(0), Verdict) is not None
        assert read_status(folder, says("unknown")).state == "CANCELLED"  # it is remembered
    resume(folder)
    assert read_status(folder, says(phase)).state == state


@pytest.mark.parametrize("phase", ["waiting", "running", "unknown"])
def test_a_job_that_has_not_ended_is_refused(
    folder: JobFolder, desk: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    folder.exit_record(1).unlink()
    status = read_status(folder, says(phase))
    monkeypatch.setattr(resumption, "read_status", lambda folder: status)
    folder.drain.touch()
    before = files(folder)
    with pytest.raises(FailedError, match="nothing was submitted" if phase == "unknown" else "resume it when it has"):
        resume(folder)
    assert files(folder) == before
    assert not sent(desk)


def test_an_edited_input_is_refused_and_nothing_changed(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    folder.input.write_bytes(folder.input.read_bytes().replace(b"prompt 1", b"PROMPT 1"))
    folder.drain.touch()
    read_status(folder)  # it counts, and remembers
    before = files(folder)
    with pytest.raises(InputError, match="changed since the job was submitted"):
        resume(folder)
    assert files(folder) == before
    ran = run_cli("resume", "job")
    assert (ran.code, ran.err.count("\n"), sent(desk)) == (2, 1, False)


@pytest.mark.throughput
@pytest.mark.parametrize("name", ["input.sorted.jsonl", "input.sorted.json"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"other"])
def test_a_sorted_copy_that_is_gone_or_damaged_is_written_again(
    folder: JobFolder, desk: Path, run_cli: Cli, name: str, data: bytes | None
) -> None:
    crafted.put_in_order(folder)
    file = folder.path / name
    before = {one: one.read_bytes() for one in (folder.sorted, folder.sorted_json)}
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data if data != b"other" else file.read_bytes().replace(b"1", b"2"))
    ran = run_cli("resume", "job")
    assert ran.code == 0 and "sorted copy of the input was gone or damaged, and was written again" in ran.out + ran.err
    assert {one: one.read_bytes() for one in before} == before and sent(desk)


@pytest.mark.throughput
@pytest.mark.parametrize("name", ["order.rows", "order.json"])
@pytest.mark.parametrize("data", [None, b"", b"{}", b"a folder"])
def test_an_order_that_has_changed_is_refused(
    folder: JobFolder, desk: Path, run_cli: Cli, name: str, data: bytes | None
) -> None:
    crafted.put_in_order(folder)
    file = folder.path / name
    file.unlink()
    if data == b"a folder":
        file.mkdir()
    elif data is not None:
        file.write_bytes(data)
    read_status(folder)  # it counts, and remembers
    before = files(folder)
    ran = run_cli("resume", "job")
    assert (ran.code, ran.err.count("\n"), sent(desk)) == (2, 1, False) and "submit a new job" in ran.err
    assert files(folder) == before


@pytest.mark.throughput
def test_no_room_for_the_sorted_copy_is_told_in_one_line(
    folder: JobFolder, desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    crafted.put_in_order(folder)
    folder.sorted.unlink()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sorted_copy, "write_sorted", full)
    ran = run_cli("resume", "job")
    assert (ran.code, ran.err.count("\n"), sent(desk)) == (2, 1, False) and "No space left on device" in ran.err


@pytest.mark.parametrize("text", [None, "edited\n"])
def test_a_script_whose_lifecycle_is_gone_is_not_queued_to_fail(
    folder: JobFolder, desk: Path, run_cli: Cli, text: str | None
) -> None:
    script = folder.path / "script.sbatch"
    script.write_text(f"#!/bin/bash\n# {sha256('as submitted')}\n")
    if text is not None:
        folder.lifecycle.write_text(text)
    ran = run_cli("resume", "job")
    assert (ran.code, "lifecycle.sh' is missing or was changed" in ran.err, sent(desk)) == (2, True, False)
    folder.lifecycle.write_text("as submitted")
    assert (run_cli("resume", "job").code, sent(desk)) == (0, True)


def test_a_script_that_is_gone_is_named(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    script = folder.path / "script.sbatch"
    script.unlink()
    ran = run_cli("resume", "job")
    advice = "No such file or directory: submit a new job, or restore the file"
    assert (ran.code, ran.err) == (2, f"Error: cannot read {str(script)!r}: {advice}\n")
    assert not sent(desk)


def test_not_if_another_process_has_recorded_a_submission_meanwhile(
    folder: JobFolder, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """'cancel --job-id', say, which makes no mark."""
    other = Submitted("slurm", "78", 0.0)
    monkeypatch.setattr(resumption, "check_unchanged", lambda folder: write_json(folder.submitted, other))
    folder.drain.touch()
    with pytest.raises(FailedError, match="another process is resuming this job"):
        resume(folder)
    assert not sent(desk)
    assert (read_json(folder.submitted, Submitted), folder.taken("77").exists()) == (other, False)
    assert folder.drain.exists()


def test_a_cancel_while_it_is_submitted_is_carried_out(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(folder: JobFolder, scheduler: object, layout: object) -> str:
        folder.cancelled.touch()
        return "4711"

    cancelled: list[str] = []
    slurm = replace(get_scheduler("slurm"), cancel=lambda folder, job_id: cancelled.append(job_id))
    monkeypatch.setattr(resumption, "submit_script", submit)
    monkeypatch.setattr(resumption, "get_scheduler", lambda name: slurm)
    resume(folder)
    assert cancelled == ["4711"]


def test_a_cancel_before_earlier_marks_are_removed_is_kept(
    folder: JobFolder, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a job that was cancelled before: 'cancel' makes the same mark again, while the resume looks at the rows."""
    folder.cancelled.touch()
    os.utime(folder.cancelled, (1, 1))
    taking = folder.take

    def take(self: JobFolder, job_id: str | None, number: int = 1) -> Path:
        folder.cancelled.touch()
        return taking(job_id, number)

    monkeypatch.setattr(JobFolder, "take", take)
    with pytest.raises(FailedError, match="nothing was submitted: the job was told to stop meanwhile"):
        resume(folder)
    assert folder.cancelled.exists()
    assert (sent(desk), folder.taken("77").exists()) == (False, False)


def test_a_cancel_while_it_is_submitted_is_on_record_before_it_is_carried_out(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was lost: the command was refused, and the job ran."""
    folder.cancelled.touch()
    said: list[str] = []

    def submit(folder: JobFolder, scheduler: object, layout: object) -> str:
        with pytest.raises(FailedError, match="the cancel is on record, but it is not known which job to cancel") as no:
            cancel(folder)
        said.append(str(no.value))
        return "4711"

    cancelled: list[str] = []
    slurm = replace(get_scheduler("slurm"), cancel=lambda folder, job_id: cancelled.append(job_id))
    monkeypatch.setattr(resumption, "submit_script", submit)
    monkeypatch.setattr(resumption, "get_scheduler", lambda name: slurm)
    resume(folder)
    assert (len(said), cancelled) == (1, ["4711"])


def test_nothing_is_left(folder: JobFolder, desk: Path, run_cli: Cli) -> None:
    crafted.write_lines(folder.shard(0, 2), [crafted.result(2)])
    folder.drain.touch()
    assert resume(folder).left == 0
    assert folder.drain.exists()
    ran = run_cli("resume", "job")
    hint = ": 1 row has an error, which --retry-errors runs again"
    assert (ran.code, ran.err) == (0, f"Nothing to resume: no row is missing{hint}.\n")
    assert not sent(desk)
    assert resume(folder, retry_errors=True).left == 1


@pytest.mark.parametrize(("erred_again", "left"), [(False, 1), (True, 0)])
def test_errors_that_a_resume_was_to_run_again_and_did_not_are_left(
    folder: JobFolder, erred_again: bool, left: int
) -> None:
    """'resume --retry-errors' was interrupted before it came to that row, or it came, and the row failed anew."""
    write_json(folder.retry, Retry(1))
    failed = {"index": 1, "id": "1", "error": {"type": "X", "message": ""}}
    crafted.write_lines(folder.shard(0, 2), [crafted.result(2), *[failed] * erred_again])
    assert resume(folder).left == left
    assert read_json(folder.retry, Retry) == Retry(1)


@pytest.mark.parametrize("asked_before", [None, Retry(0)])
def test_a_refused_submission_leaves_the_job_as_it_was(
    folder: JobFolder, desk: Path, asked_before: Retry | None
) -> None:
    if asked_before:
        write_json(folder.retry, asked_before)
    folder.cancelled.touch()
    folder.drain.touch()
    sbatch(desk, "echo 'sbatch: error: invalid account' >&2; exit 1\n")
    with pytest.raises(SubmitError, match="invalid account"):
        resume(folder, retry_errors=True)
    assert folder.cancelled.exists()
    assert folder.drain.exists()
    assert read_json(folder.retry, Retry) == asked_before
    sbatch(desk, FAKE_SBATCH)
    assert resume(folder).left == 1


def test_a_submission_of_unknown_outcome_is_not_repeated(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, desk: Path
) -> None:
    def lost(*_: object) -> str:
        raise ClientTimeoutError("sbatch got no answer.")

    with monkeypatch.context() as patch:
        patch.setattr(resumption, "submit_script", lost)
        with pytest.raises(FailedError, match=r"may or may not be submitted; see 'vllm-hpc status .*/runs/job'"):
            resume(folder)
    with pytest.raises(FailedError, match="another process is resuming this job"):
        resume(folder)
    assert not sent(desk)


@pytest.mark.parametrize("when", ["while sbatch runs", "after it"])
def test_who_is_interrupted_does_not_submit_twice(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Ctrl-C while sbatch works, or a disk that is full right after: the job may be in the queue."""

    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    name = "submit_script" if when == "while sbatch runs" else "Submitted"
    monkeypatch.setattr(resumption, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        resume(folder)
    monkeypatch.setattr(resumption, name, {"submit_script": lambda *_: "4712", "Submitted": Submitted}[name])
    with pytest.raises(FailedError, match="another process is resuming this job"):
        resume(folder)


def test_what_fails_before_the_submission_can_be_tried_again(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, desk: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resumption, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            resume(folder, retry_errors=True)
    assert not sent(desk)
    assert resume(folder).left == 1


def test_of_two_at_once_one_submits(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second looks before the first has submitted, and comes after."""
    status = read_status(folder)
    monkeypatch.setattr(resumption, "read_status", lambda folder: status)
    assert resume(folder).left == 1
    with pytest.raises(FailedError, match="another process is resuming this job"):
        resume(folder)


def test_another_users_folder(folder: JobFolder, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(JobFolder, "take", denied)
    ran = run_cli("resume", "job")
    assert (ran.code, ran.err) == (2, f"Error: cannot write to {folder.path / 'state'}: Permission denied\n")


def test_the_command(folder: JobFolder, run_cli: Cli, desk: Path) -> None:
    (desk / "bin" / "squeue").write_text("#!/bin/sh\nexit 1\n")
    ran = run_cli("resume", "job")
    assert (ran.code, ran.out) == (0, "Submitted job again as 4711, for 1 row\n")


def test_the_command_for_programs(folder: JobFolder, run_cli: Cli) -> None:
    ran = run_cli("resume", "job", "--retry-errors", "--json")
    found = json.loads(ran.out)
    assert (ran.code, ran.err, found["job_id"], found["attempts"]) == (0, "", "4711", 1)
    assert found["state"] not in ("FAILED", "COMPLETED", "PARTIAL")


@pytest.mark.parametrize("is_whole", [True, False])
def test_rows_of_ranks_that_diverged_are_doubted(folder: JobFolder, desk: Path, run_cli: Cli, is_whole: bool) -> None:
    """A resume cannot mend them: those that are there stay."""
    if is_whole:
        crafted.write_lines(folder.shard(0, 2), [crafted.result(2)])
    crafted.rank(folder, 0, "error", error=crafted.error("the ranks of replica 0 diverged: digests ['a', 'b']"))
    ran = run_cli("resume", "job")
    doubt = "the ranks of a replica diverged, and its rows may be wrong: start a new job\n"
    if is_whole:
        with pytest.raises(FailedError, match="no row is missing, but the ranks of a replica diverged"):
            Job(folder.path).resume()
        assert (ran.code, ran.err) == (1, f"Error: nothing to resume: no row is missing, but {doubt}")
    else:
        assert (ran.code, ran.err) == (0, f"Note: {doubt}")
    assert sent(desk) != is_whole
