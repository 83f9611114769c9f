"""A job that submits itself again: once, whoever asks, under a new id that everything else follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Attempt, Submitted, read_json, write_json
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.in_script.requeue import should_run_again
from vllm_hpc.schedulers.in_script.resubmit import main
from vllm_hpc.spec.layout import Layout

ARRAY = Layout(1, 1, 1, 1, 1, 3, is_array=True)
Qsub = list[str | ClientError]


@pytest.fixture
def qsub(monkeypatch: pytest.MonkeyPatch) -> Qsub:
    """What qsub will answer, one after the other; qdel's ids are kept as well."""
    answers: Qsub = []

    def call(argv: list[str], *rest: Any) -> str:
        if argv[0] == "qdel":
            answers.append(f"deleted {argv[1]}")
            return ""
        answer = answers.pop(0)
        if isinstance(answer, ClientError):
            raise answer
        return f"{answer}\n"

    monkeypatch.setattr("vllm_hpc.schedulers.scheduler.call_client", call)
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.call_client", call)
    monkeypatch.setattr("vllm_hpc.schedulers.in_script.resubmit._PAUSES_S", (0.01, 0.01))
    return answers


def make(path: Path, job_id: str, tasks: int = 1) -> JobFolder:
    folder = crafted.make_job(path, 10, "pbs", ARRAY if tasks > 1 else None)
    (folder.path / "script.pbs").write_text("#!/bin/sh\n")
    write_json(folder.submitted, Submitted("pbs", job_id, 0.0))
    for task in range(tasks):
        begin(folder, task + 1, f"{job_id}_{task}" if tasks > 1 else job_id, task)
    return folder


def begin(folder: JobFolder, attempt: int, job_id: str, task: int = 0) -> None:
    write_json(folder.attempt(attempt), Attempt(attempt=attempt, task=task, job_id=job_id, host="n1", started_at=1.0))


def submitted(folder: JobFolder) -> Submitted:
    record = read_json(folder.submitted, Submitted)
    assert record is not None
    return record


def ask(folder: JobFolder, attempt: int, wish: str = "again") -> int:
    return main([str(folder.path), str(attempt), wish])


def test_it_is_submitted_under_a_new_id(tmp_path: Path, qsub: Qsub) -> None:
    folder = make(tmp_path / "job", "12.head")
    qsub += ["13.head", "14.head"]
    assert ask(folder, 1) == 0
    assert (submitted(folder).job_id, submitted(folder).earlier) == ("13.head", ("12.head",))
    begin(folder, 2, "13.head")
    assert ask(folder, 2) == 0
    assert (submitted(folder).job_id, submitted(folder).earlier) == ("14.head", ("12.head", "13.head"))


def test_never_twice(tmp_path: Path, qsub: Qsub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "job", "12.head")
    folder.taken("12.head").touch()  # somebody resumes it at this moment
    assert ask(folder, 1) == 1
    assert "another process does so" in capsys.readouterr().err
    folder.taken("12.head").unlink()
    qsub += ["13.head"]
    assert ask(folder, 1) == 0
    assert ask(folder, 1) == 1
    assert "the job now runs as 13.head" in capsys.readouterr().err


def test_a_refusal_leaves_it_to_resume(tmp_path: Path, qsub: Qsub, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "job", "12.head")
    qsub += [ClientError("qsub refused: Unknown queue")]
    assert ask(folder, 1) == 1
    assert "Unknown queue" in capsys.readouterr().err
    assert submitted(folder).job_id == "12.head"
    assert not folder.taken("12.head").exists()


def test_an_answer_that_was_lost_is_not_asked_for_again(tmp_path: Path, qsub: Qsub) -> None:
    folder = make(tmp_path / "job", "12.head")
    qsub += [ClientTimeoutError("qsub did not answer")]
    assert ask(folder, 1) == 1
    assert folder.taken("12.head").exists()


def test_one_that_was_cancelled_meanwhile_is_not_left_behind(tmp_path: Path, qsub: Qsub) -> None:
    folder = make(tmp_path / "job", "12.head")
    folder.cancelled.touch()
    assert ask(folder, 1) == 0
    assert submitted(folder).job_id == "12.head"
    folder.cancelled.unlink()
    original = submit_then(folder.cancelled.touch)
    qsub += ["13.head"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vllm_hpc.schedulers.record_submission.write_json", original)
        assert ask(folder, 1) == 0
    assert qsub == ["deleted 13.head"]


def test_an_id_that_cannot_be_written_down_is_not_left_to_itself(
    tmp_path: Path, qsub: Qsub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "job", "12.head")
    qsub += ["13.head"]

    def full(path: Path, record: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vllm_hpc.schedulers.record_submission.write_json", full)
    assert ask(folder, 1) == 1
    assert qsub == ["deleted 13.head"]
    assert (
        "the job was submitted as 13.head, and deleted again, because its id cannot be recorded"
        in capsys.readouterr().err
    )
    assert not folder.taken("12.head").exists()


def submit_then(action: Callable[[], None]) -> Callable[[Path, Any], None]:
    def write(path: Path, record: Any) -> None:
        write_json(path, record)
        action()

    return write


def test_a_client_that_never_came_back_left_no_id(tmp_path: Path, qsub: Qsub) -> None:
    folder = make(tmp_path / "job", "12.head")
    folder.submitted.unlink()
    qsub += ["13.head"]
    assert ask(folder, 1) == 0
    assert submitted(folder).earlier == ("12.head",)


@pytest.mark.parametrize("wishes", [("again", "over", "over"), ("over", "again", "again"), ("over", "over", "again")])
def test_of_an_array_the_last_task_submits_all_of_them(tmp_path: Path, qsub: Qsub, wishes: tuple[str, ...]) -> None:
    folder = make(tmp_path / "job", "12[].head", tasks=3)
    qsub += ["13[].head"]
    for task in (1, 0):
        assert ask(folder, task + 1, wishes[task]) == 0
        assert submitted(folder).job_id == "12[].head"
    assert ask(folder, 3, wishes[2]) == 0
    assert (submitted(folder).job_id, submitted(folder).earlier) == ("13[].head", ("12[].head",))


def test_an_array_that_nobody_wants_again_has_ended(tmp_path: Path, qsub: Qsub) -> None:
    folder = make(tmp_path / "job", "12[].head", tasks=3)
    assert [ask(folder, attempt, "over") for attempt in (1, 2, 3)] == [0, 0, 0]
    assert submitted(folder).job_id == "12[].head"


def test_requeues_are_counted_through_all_its_ids(tmp_path: Path) -> None:
    folder = make(tmp_path / "job", "12.head")
    for attempt in range(2, 12):
        begin(folder, attempt, f"{11 + attempt}.head")
    for attempt in range(1, 11):
        crafted.end(folder, 0, "requeue", attempt)
    ids = tuple(f"{number}.head" for number in range(12, 22))
    write_json(folder.submitted, Submitted("pbs", "22.head", 0.0, ids))
    folder.drain_attempt(11).touch()
    assert should_run_again(folder, 11, 0) == (False, "it has asked for another attempt 10 times (--max-requeues 10)")
    write_json(folder.submitted, Submitted("pbs", "22.head", 0.0))  # 'vllm-hpc resume' begins anew
    assert should_run_again(folder, 11, 0)[0]
