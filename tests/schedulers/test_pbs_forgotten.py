"""Jobs that a PBS without a history does not know any more: how they ended, and that nothing refuses them for ever."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from tests import crafted
from tests.crafted import end, make_job, progress, rank
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, Submitted
from vllm_hpc.jobs.find import find_job
from vllm_hpc.jobs.status import read_status
from vllm_hpc.schedulers.client import ClientError
from vllm_hpc.spec.errors import FailedError
from vllm_hpc.spec.layout import Layout

pytestmark = pytest.mark.inputs


def gone(argv: list[str], *rest: object) -> str:
    """What qstat and qdel say of a job that has ended (OpenPBS 23.06.06, no history)."""
    error = ClientError(f"{argv[0]} refused: Unknown Job Id {argv[-1]}")
    error.code = 153
    raise error


@pytest.fixture(autouse=True)
def pbs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", gone)
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.call_client", gone)


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = make_job(tmp_path / "job", scheduler="pbs")
    write_json(made.submitted, Submitted("pbs", "12.server", 0.0))
    return made


def begin(folder: JobFolder, job_id: str = "12.server", attempt: int = 1, task: int = 0) -> None:
    record = Attempt(attempt=attempt, task=task, job_id=job_id, host="n1", started_at=1.0)
    write_json(folder.attempt(attempt), record)


def beat(folder: JobFolder, age_s: float) -> None:
    folder.heartbeat(0).touch()
    at = time.time() - age_s
    os.utime(folder.heartbeat(0), (at, at))


def test_one_that_was_deleted_while_it_waited_is_cancelled(folder: JobFolder) -> None:
    status = read_status(folder)
    assert status.state == "CANCELLED"
    assert "it never began: it was deleted while it waited, or no queue took it" in status.reason


def test_one_whose_script_was_killed_has_failed(folder: JobFolder) -> None:
    begin(folder)
    rank(folder, 0, "running")
    beat(folder, 200)
    status = read_status(folder)
    assert status.state == "FAILED"
    assert "its script left no exit record" in status.reason


def test_it_has_not_while_a_rank_may_live(folder: JobFolder) -> None:
    begin(folder)
    rank(folder, 0, "running")
    beat(folder, 20)
    status = read_status(folder)
    assert status.state == "UNKNOWN"
    assert "a rank of it gave a sign of life in the last 30 s" in status.reason
    rank(folder, 0, "terminated")
    assert read_status(folder).state == "FAILED", "the rank has told its end"


def test_a_rank_of_an_earlier_attempt_says_nothing_of_this_one(folder: JobFolder) -> None:
    begin(folder)
    begin(folder, attempt=2)
    rank(folder, 0, "running", attempt=1)
    beat(folder, 20)
    assert read_status(folder).state == "FAILED"


@pytest.mark.parametrize(
    ("code", "cause", "state"),
    [(0, "exit", "COMPLETED"), (1, "exit", "FAILED"), (143, "TERM", "CANCELLED"), (143, "timeout", "TIMEOUT")],
)
def test_the_scripts_own_record_says_how(folder: JobFolder, code: int, cause: str, state: str) -> None:
    begin(folder)
    end(folder, code, cause)
    progress(folder, done=3 if state == "COMPLETED" else 1)
    assert read_status(folder).state == state


@pytest.mark.parametrize(("limit", "words"), [("1:00", "it was deleted"), (None, "or its queue's walltime was over")])
def test_who_told_it_to_end_is_said_as_far_as_it_is_known(folder: JobFolder, limit: str | None, words: str) -> None:
    record = folder.job()
    request = msgspec.structs.replace(record.request, time=limit)
    write_json(folder.job_json, msgspec.structs.replace(record, request=request))
    begin(folder)
    end(folder, 143, "TERM")
    assert read_status(folder).reason.endswith(words)


def test_of_an_array_each_task_is_told_apart(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", 3, "pbs", Layout(1, 1, 1, 1, 1, 3, is_array=True))
    write_json(folder.submitted, Submitted("pbs", "12[].server", 0.0))
    begin(folder, "12[].server_1", 1, 1)
    status = read_status(folder)
    assert (status.state, "1 of 3 tasks; task 1" in status.reason) == ("FAILED", True)


# What is left of such a job -> whether it began.
LEFT: dict[str, Callable[[JobFolder], None]] = {"deleted": lambda folder: None, "killed": begin}


@pytest.mark.parametrize("left", LEFT)
def test_cancel_and_resume_do_not_refuse_each_other(
    folder: JobFolder, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    LEFT[left](folder)
    ended = {"deleted": "CANCELLED", "killed": "FAILED"}[left]
    assert find_job(str(folder.path)).cancel().state == ended
    assert not folder.cancelled.exists()
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_installed", lambda: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_lifecycle", lambda folder, script: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", lambda folder, scheduler, layout: "13.server")
    assert find_job(str(folder.path)).resume() == 3
    assert find_job(str(folder.path)).job_id == "13.server"


def test_a_cancel_as_it_ends_is_no_error(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """qdel does not know it either."""
    running = (Path(__file__).parents[1] / "pbs" / "recorded" / "running.json").read_text()
    answers = [running.replace("37.pbshead", "12.server")]
    ask = lambda argv: answers.pop() if answers else gone(argv)  # noqa: E731
    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", ask)
    assert find_job(str(folder.path)).cancel().state == "CANCELLED"


def test_an_id_without_its_server_may_be_another_servers(folder: JobFolder) -> None:
    """PBS asks the server that an id names; without one it asks this machine's."""
    write_json(folder.submitted, Submitted("pbs", "12", 0.0))
    assert read_status(folder).state == "UNKNOWN"
    with pytest.raises(FailedError, match="not_submitted=True"):
        find_job(str(folder.path)).resume()
    assert find_job(str(folder.path)).cancel().state == "CANCELLED"


def test_attempts_are_those_of_an_id_without_its_server(folder: JobFolder) -> None:
    write_json(folder.submitted, Submitted("pbs", "12", 0.0))
    begin(folder, "12.server")
    crafted.end(folder, 0, "exit")
    progress(folder, done=3)
    assert (read_status(folder).state, read_status(folder).attempts) == ("COMPLETED", 1)
