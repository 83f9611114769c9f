"""A job that could not submit its next attempt from its node: status and whoever waits do, and nobody else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, progress
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Again, Attempt, CannotSubmit, Submitted
from vllm_hpc.jobs.find import find_job, list_statuses
from vllm_hpc.jobs.resubmission import resubmit
from vllm_hpc.jobs.status import read_status
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.in_script.check_host import main as check_host
from vllm_hpc.schedulers.scheduler import get_scheduler
from vllm_hpc.schedulers.submit_again import TakenError, submit_again
from vllm_hpc.spec.errors import FailedError

pytestmark = pytest.mark.inputs
DOWN = ClientError("qsub refused: Connection refused cannot connect to server pbshead (errno=15010)")


class Pbs:
    """A server without a history, which knows the jobs in ``known``, and the logs of those in ``logs``.

    ``submissions`` are what qsub answers; ``meanwhile`` happens when qselect has answered, ``while_submitting`` before
    qsub does.
    """

    def __init__(self) -> None:
        self.submissions: list[str | ClientError] = []
        self.known: dict[str, str] = {}
        self.logs: dict[str, Path] = {}
        self.deleted: list[str] = []
        self.submitted = 0
        self.refuses_qdel = False
        self.meanwhile: list[Callable[[], object]] = []
        self.while_submitting: list[Callable[[], object]] = []

    def call(self, argv: list[str], *rest: Any) -> str:
        if argv[0] == "qsub":
            answer = self.submissions.pop(0)
            self.submitted += 1
            if self.while_submitting:
                self.while_submitting.pop()()
            if isinstance(answer, ClientError):
                raise answer
            self.known[answer] = "Q"
            return answer
        if argv[0] == "qselect":
            found = "\n".join(self.known)
            if self.meanwhile:
                self.meanwhile.pop()()
            return found
        if argv[:2] == ["qstat", "-f"] and "json" not in argv:
            return "\n".join(self.described(one) for one in argv[2:] if one in self.known)
        if argv[-1] in self.known and argv[0] == "qstat":
            state = self.known[argv[-1]]
            return f'{{"Jobs": {{"{argv[-1]}": {{"job_state": "{state}"}}}}}}'
        if argv[0] == "qdel" and self.refuses_qdel:
            raise refusal("Connection refused cannot connect to server pbshead", 162)
        self.deleted += [argv[-1]] if argv[0] == "qdel" else []
        raise refusal(f"Unknown Job Id {argv[-1]}", 153)

    def described(self, job_id: str) -> str:
        log = self.logs.get(job_id, "/another/job/logs/scheduler.out")
        return f"Job Id: {job_id}\n    Job_Name = job\n    Output_Path = pbshead:{log}\n"


def refusal(words: str, code: int) -> ClientError:
    error = ClientError(f"refused: {words}")
    error.code = code
    return error


@pytest.fixture
def pbs(monkeypatch: pytest.MonkeyPatch) -> Pbs:
    made = Pbs()
    for module in ("polling", "scheduler", "pbs", "pbs.from_inside"):
        monkeypatch.setattr(f"vllm_hpc.schedulers.{module}.call_client", made.call)
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.from_inside.find_job.__defaults__", (made.call,))
    monkeypatch.setattr("vllm_hpc.jobs.status.LATE_S", 0)  # no NFS, on which records become visible late
    return made


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job whose first attempt was drained, and has ended without the second."""
    made = make_job(tmp_path / "runs" / "job", 10, "pbs")
    (made.path / "script.pbs").write_text("#!/bin/sh\n#PBS -N job\n")
    write_json(made.submitted, Submitted("pbs", "12.head", 0.0))
    write_json(made.attempt(1), Attempt(attempt=1, task=0, job_id="12.head", host="n1", started_at=1.0))
    end(made, 0, "requeue")
    progress(made, done=4)
    write_json(made.again, Again(job_id="12.head", attempt=1, reason=str(DOWN), next_at=0.0))
    return made


def submitted(folder: JobFolder) -> Submitted:
    record = read_json(folder.submitted, Submitted)
    assert record is not None
    return record


def test_status_submits_it_and_says_so(folder: JobFolder, pbs: Pbs, run_cli: Cli) -> None:
    pbs.submissions = ["13.head"]
    ended = run_cli("status", str(folder.path))
    assert ended.code == 0
    assert "PENDING" in ended.out
    assert "submitted again as 13.head" in " ".join(ended.out.split())
    assert (submitted(folder).job_id, submitted(folder).earlier) == ("13.head", ("12.head",))
    assert not folder.again.exists()
    assert "submitted again" not in run_cli("status", str(folder.path)).out


def test_whoever_waits_submits_it_and_goes_on_waiting(folder: JobFolder, pbs: Pbs) -> None:
    pbs.submissions = ["13.head"]
    statuses = find_job(str(folder.path)).statuses()
    assert next(statuses)[0].state == "PENDING"
    pbs.known["13.head"] = "R"
    assert next(statuses)[0].state == "RUNNING"


@pytest.mark.parametrize("look", ["list", "cancel", "read", "collect"])
def test_others_only_tell_it(folder: JobFolder, pbs: Pbs, look: str) -> None:
    job = find_job(str(folder.path))
    if look == "cancel":
        assert job.cancel().is_final
    elif look == "list":
        (status,) = list_statuses(str(folder.path.parent))
        assert status.state == "PENDING"
        assert "attempt 1 could not submit the next one (qsub refused: Connection refused" in status.reason
        assert "'vllm-hpc status' submits it" in status.reason
    elif look == "collect":
        assert job.collect().state == "PENDING"
    else:
        assert read_status(folder).state == "PENDING"
    assert submitted(folder).job_id == "12.head"


def test_resume_submits_it_as_ever(folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_installed", lambda: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_lifecycle", lambda folder, script: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", lambda folder, scheduler, layout: "14.head")
    assert find_job(str(folder.path)).resume() == 10
    assert submitted(folder).job_id == "14.head"
    pbs.known["14.head"] = "Q"
    assert find_job(str(folder.path)).status().reason == "waits"


@pytest.mark.parametrize("marker", ["cancelled", "drain"])
def test_not_after_somebody_stopped_the_job(folder: JobFolder, pbs: Pbs, marker: str) -> None:
    (folder.path / "control" / marker).touch()
    assert find_job(str(folder.path)).status().is_final
    assert submitted(folder).job_id == "12.head"


def test_not_after_pbs_says_that_it_was_deleted(folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '{"Jobs": {"12.head": {"job_state": "F", "Exit_status": 271}}}'
    monkeypatch.setattr("vllm_hpc.schedulers.polling.call_client", lambda argv: text)
    assert find_job(str(folder.path)).status().state == "CANCELLED"


@pytest.mark.parametrize("state", ["R", "E", "Q", "H"])
def test_not_while_the_submission_before_is_there(folder: JobFolder, pbs: Pbs, state: str) -> None:
    """Its script may still be trying, or PBS runs it once more by itself."""
    pbs.known["12.head"] = state
    assert not find_job(str(folder.path)).status().is_final
    assert submitted(folder).job_id == "12.head"


def test_not_for_an_attempt_that_was_followed_by_another(folder: JobFolder, pbs: Pbs) -> None:
    write_json(folder.attempt(2), Attempt(attempt=2, task=0, job_id="12.head", host="n1", started_at=2.0))
    end(folder, 1, "exit", attempt=2)
    assert find_job(str(folder.path)).status().state == "FAILED"


def test_not_for_a_job_of_somebody_else(folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: os.getuid() + 1)
    status = find_job(str(folder.path)).status()
    assert status.state == "PENDING"
    assert "of its owner submits it" in status.reason
    assert submitted(folder).job_id == "12.head"


def test_a_server_that_is_down_is_not_asked_at_every_look(folder: JobFolder, pbs: Pbs) -> None:
    pbs.submissions = [DOWN]
    first, second = (find_job(str(folder.path)).status() for _ in range(2))
    assert (first.state, second.state) == ("PENDING", "PENDING")
    assert "next try in 30 s" in first.reason
    assert "Connection refused" in second.reason
    assert not folder.taken("12.head").exists()
    write_json(folder.again, Again(job_id="12.head", attempt=1, reason="", next_at=time.time() - 1))
    pbs.submissions = ["13.head"]
    assert find_job(str(folder.path)).status().job_id == "13.head"


@pytest.mark.parametrize(
    "words",  # as OpenPBS 23.06.06 printed them, of a hook with a reason, of one without, and of a broken one
    [
        "Illegal submission host: jobs may be submitted from the login nodes only",
        "queuejob request rejected by 't24'",
        "request rejected as filter hook 't24' encountered an exception. Please inform Admin",
    ],
)
def test_what_a_hook_said_is_told_on_the_login_node(folder: JobFolder, pbs: Pbs, words: str) -> None:
    refused = ClientError(f"qsub refused: {words}")
    refused.code = 32
    pbs.submissions = [refused, "13.head"]
    assert f"attempt 1 wants another one, and qsub refused: {words}" in find_job(folder.path).status().reason
    assert folder.again.exists(), "it is tried again"


def age(mark: Path) -> None:
    """As if it had been made long ago: whoever made it died, or never heard the answer."""
    os.utime(mark, (1.0, 1.0))


def test_only_one_of_two_who_look_at_once(folder: JobFolder, pbs: Pbs) -> None:
    folder.take("12.head")
    before = folder.again.read_bytes()
    status = find_job(str(folder.path)).status()
    assert status.state == "PENDING"
    assert "Connection refused" in status.reason
    assert "another process does so" in status.reason
    assert folder.again.read_bytes() == before, "why the job itself could not is still known"


def test_one_that_may_be_submitted_is_looked_for_first(folder: JobFolder, pbs: Pbs) -> None:
    age(folder.take("12.head"))
    pbs.known, pbs.logs = {"13.head": "Q"}, {"13.head": folder.scheduler_log}
    assert find_job(str(folder.path)).status().job_id == "13.head"
    assert (submitted(folder).job_id, pbs.submitted) == ("13.head", 0)


def test_one_that_was_lost_is_submitted_again(folder: JobFolder, pbs: Pbs) -> None:
    mark = folder.take("12.head")
    age(mark)
    pbs.known, pbs.submissions = {"14.head": "R"}, ["15.head"]  # a job of another folder
    assert find_job(str(folder.path)).status().job_id == "15.head"
    assert mark.exists() and folder.taken("12.head", 2).exists()


def test_of_two_who_find_nothing_one_submits(folder: JobFolder, pbs: Pbs) -> None:
    """The other one submits it between this one's look at the scheduler and its own submission."""
    age(folder.take("12.head"))
    pbs.submissions = ["13.head", "14.head"]
    job = find_job(str(folder.path))
    pbs.meanwhile = [job.status]
    assert job.status().state == "PENDING"
    assert (submitted(folder).job_id, pbs.submitted) == ("13.head", 1)
    assert job.status().job_id == "13.head"


@pytest.mark.parametrize("has_mark", [False, True])
def test_who_read_the_record_before_another_submitted_does_not_submit(
    folder: JobFolder, pbs: Pbs, has_mark: bool
) -> None:
    """``has_mark``: between the record of the last submission and the mark; else before that record."""
    pbs.submissions = ["13.head", "14.head"]
    again, job = read_json(folder.again, Again), find_job(str(folder.path))
    before = submitted(folder)
    assert again is not None
    assert job.status().job_id == "13.head"
    if has_mark:
        folder.taken("12.head").unlink()
        with pytest.raises(TakenError, match=r"as 13\.head"):
            submit_again(folder, before)
        assert not folder.taken("12.head").exists()
    else:
        assert resubmit(folder, again) == ("PENDING", "13.head", "submitted again as 13.head", False)
    assert (submitted(folder).job_id, pbs.submitted) == ("13.head", 1)


def test_a_lost_answer_is_not_asked_for_again_at_once(folder: JobFolder, pbs: Pbs) -> None:
    pbs.submissions = [ClientTimeoutError("qsub did not answer within 60 s: is the controller up?")]
    assert "did not answer" in find_job(str(folder.path)).status().reason
    assert folder.taken("12.head").exists()
    assert find_job(str(folder.path)).status().state == "PENDING"


def test_what_will_always_be_refused_is_not_waited_for(folder: JobFolder, pbs: Pbs) -> None:
    pbs.submissions = [refusal("Unknown queue", 170)]
    status = find_job(str(folder.path)).wait(timeout=5)
    assert status.state == "FAILED"
    assert "attempt 1 could not submit the next one (refused: Unknown queue: 'qstat -Q' lists" in status.reason
    assert "'vllm-hpc resume' submits it" in status.reason
    for again in (read_status(folder), find_job(str(folder.path)).status()):
        assert (again.state, again.reason) == (status.state, status.reason)
    assert pbs.submitted == 1


def test_it_is_resumed_once_that_is_mended(folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after an earlier submission was lost, if the user says so."""
    mark = folder.take("12.head")
    age(mark)
    pbs.submissions = [refusal("Unknown queue", 170)]
    job = find_job(str(folder.path))
    assert job.status().state == "FAILED"
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_installed", lambda: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_lifecycle", lambda folder, script: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", lambda folder, scheduler, layout: "14.head")
    with pytest.raises(FailedError, match="--not-submitted"):
        job.resume()
    assert job.resume(not_submitted=True) == 10
    assert (submitted(folder).job_id, folder.again.exists()) == ("14.head", False)


def test_the_user_may_say_that_it_was_not_submitted(
    folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than wait for who looks for it."""
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_installed", lambda: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.check_lifecycle", lambda folder, script: None)
    monkeypatch.setattr("vllm_hpc.jobs.resume.submit_script", lambda folder, scheduler, layout: "14.head")
    job = find_job(str(folder.path))
    mark = folder.take("12.head")
    with pytest.raises(FailedError, match="may be going on: try again in"):
        job.resume(not_submitted=True)
    age(mark)
    pbs.known, pbs.logs = {"13.head": "Q"}, {"13.head": folder.scheduler_log}
    with pytest.raises(FailedError, match=r"pbs has the job, as 13\.head: .* --job-id 13\.head"):
        job.resume(not_submitted=True)
    pbs.known = {}
    assert job.resume(not_submitted=True) == 10
    assert submitted(folder).job_id == "14.head"


def test_a_folder_that_cannot_be_written_is_told(folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: JobFolder, job_id: str, number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobFolder, "take", full)
    status = find_job(str(folder.path)).status()
    assert status.state == "PENDING"
    assert "cannot write" in status.reason and "No space left on device: free some space" in status.reason
    assert pbs.submitted == 0


def test_a_full_disk_does_not_queue_a_job_at_every_look(
    folder: JobFolder, pbs: Pbs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vllm_hpc.schedulers.record_submission.write_json", full)
    monkeypatch.setattr(
        "vllm_hpc.schedulers.record_submission.get_scheduler",
        lambda name: replace(get_scheduler(name), cancel=lambda job, job_id: pbs.deleted.append(job_id)),
    )
    pbs.submissions = ["13.head", "14.head"]
    status = find_job(str(folder.path)).wait(timeout=5)
    assert (status.state, pbs.deleted) == ("FAILED", ["13.head"])
    assert "free some space" in status.reason


# -- cancelled while it is submitted ---------------------------------------------------------------------------------


def test_a_cancel_while_another_submits_is_kept(folder: JobFolder, pbs: Pbs) -> None:
    """The answer to that submission was lost."""
    pbs.submissions = [ClientTimeoutError("qsub got no answer"), "13.head"]
    job = find_job(str(folder.path))
    assert job.status().awaits_resubmission
    with pytest.raises(FailedError, match=r"it is not known which job to cancel: .*cancel .* --job-id ID"):
        job.cancel()
    assert folder.cancelled.exists()
    age(folder.taken("12.head"))
    assert job.status().state == "UNKNOWN"
    assert pbs.submitted == 1
    pbs.known, pbs.logs = {"13.head": "Q"}, {"13.head": folder.scheduler_log}
    job.cancel("13.head")
    assert pbs.deleted == ["13.head"]


def test_who_submits_it_then_cancels_it(folder: JobFolder, pbs: Pbs) -> None:
    job = find_job(str(folder.path))

    def cancel() -> None:
        with pytest.raises(FailedError, match="it is not known which job to cancel"):
            job.cancel()

    pbs.submissions, pbs.while_submitting = ["13.head"], [cancel]
    job.status()
    assert pbs.deleted == ["13.head"]
    assert submitted(folder).job_id == "13.head"


def test_a_cancel_that_fails_then_is_told(folder: JobFolder, pbs: Pbs) -> None:
    pbs.submissions, pbs.while_submitting = ["13.head"], [folder.cancelled.touch]
    pbs.refuses_qdel = True
    status = find_job(str(folder.path)).status()
    assert "was cancelled while it was submitted as 13.head, and that one could not be cancelled" in status.reason
    assert f"'vllm-hpc cancel {folder.path}' tries it again" in status.reason
    assert submitted(folder).job_id == "13.head"
    pbs.refuses_qdel = False
    find_job(str(folder.path)).cancel()
    assert pbs.deleted == ["13.head"]


# -- what is known before --------------------------------------------------------------------------------------------


def test_a_node_that_may_not_submit_is_known_at_the_start(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[list[str]] = []

    def ask(argv: list[str], *rest: Any) -> str:
        asked.append(argv)
        if argv[0] == "qalter":
            error = ClientError("qalter refused: Unauthorized Request 12.head")
            error.code = 159
            raise error
        return "pbs_version = 23.06.06"

    monkeypatch.setattr("vllm_hpc.schedulers.pbs.from_inside.check_host.__defaults__", (ask,))
    assert check_host([str(folder.path), "1"]) == 0
    assert asked[-1] == ["qalter", "-N", "job", "12.head"]
    assert "cannot submit the next attempt (qalter refused: Unauthorized Request" in capsys.readouterr().out
    found = read_json(folder.cannot_submit, CannotSubmit)
    assert found is not None
    assert (found.attempt, found.host) == (1, os.uname().nodename)


@pytest.mark.parametrize("code", [32, 156, 162, 167, 255, None])
def test_what_may_pass_says_nothing_of_the_node(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch, code: int | None
) -> None:
    def ask(argv: list[str], *rest: Any) -> str:
        error = ClientError("refused")
        error.code = code
        if argv[0] == "qalter":
            raise error
        return ""

    monkeypatch.setattr("vllm_hpc.schedulers.pbs.from_inside.check_host.__defaults__", (ask,))
    assert check_host([str(folder.path), "1"]) == 0
    assert not folder.cannot_submit.exists()


def test_a_running_job_says_it(folder: JobFolder, pbs: Pbs) -> None:
    folder.exit_record(1).unlink()
    write_json(folder.cannot_submit, CannotSubmit(attempt=1, host="n1", reason="Unauthorized Request"))
    pbs.known["12.head"] = "R"
    assert "n1 cannot submit the next attempt (Unauthorized Request)" in read_status(folder).reason
    write_json(folder.cannot_submit, CannotSubmit(attempt=7, host="n1", reason="Unauthorized Request"))
    assert "cannot submit" not in read_status(folder).reason


def test_a_script_that_is_still_trying_says_it(folder: JobFolder, pbs: Pbs) -> None:
    pbs.known["12.head"] = "R"
    write_json(folder.again, Again(job_id="12.head", attempt=1, reason="qsub refused: x", next_at=time.time() + 20))
    status = read_status(folder)
    assert status.state == "RUNNING"
    assert "submitting again: qsub refused: x, next try in" in status.reason
