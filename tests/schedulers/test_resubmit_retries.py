"""A job whose resubmission is refused, or never answered: tried again while there is time, then left to others."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Again, Attempt, Submitted, read_json, write_json
from vllm_hpc.schedulers.client import ClientError, ClientMissingError, ClientTimeoutError
from vllm_hpc.schedulers.in_script.resubmit import main

pytestmark = pytest.mark.inputs
LIMIT_S = 120


def refusal(words: str, code: int) -> ClientError:
    """As the clients of OpenPBS 23.06.06 (cd7ab5e) refused, with their exit codes."""
    error = ClientError(f"qsub refused: {words}")
    error.code = code
    return error


DOWN = refusal("Connection refused cannot connect to server pbshead (errno=15010)", 162)
NOT_ENABLED = refusal("Queue is not enabled", 173)
LIMIT = refusal("would exceed complex's per-user limit", 38)
OF_A_HOOK = refusal("jobs may be submitted from the login nodes only", 32)
HOOKS_OWN_WORDS = refusal("Illegal submission host: jobs may be submitted from the login nodes only", 32)
# PBSE_BADHOST 15008, as below: where it finds no server, qsub exits with pbs_errno (src/cmds/qsub.c, do_connect).
UNKNOWN_HOST = refusal("Unknown Host. cannot connect to server pbshead (errno=15008)", 160)
NO_TRUST = refusal("Bad UID for job execution", 175)
NO_ACCESS = refusal("Access from host not allowed, or unknown host", 160)
LOST = ClientTimeoutError("qsub got no answer from its controller: End of File: is it overloaded?")
Answer = str | ClientError


class World:
    """A clock that only waiting moves, and what PBS's clients answer, one after the other."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.answers: dict[str, list[Answer]] = {"qsub": [], "qselect": [], "qdel": []}
        self.described: dict[str, str] = {}
        self.asked: list[str] = []
        self.at: list[float] = []
        self.at_each_step: Callable[[], object] = lambda: None
        self.after_qselect: Callable[[], object] = lambda: None

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.at_each_step()

    def call(self, argv: list[str], *rest: Any) -> str:
        self.asked.append(argv[0])
        if argv[0] == "qstat":
            return "\n".join(self.described[job_id] for job_id in argv[2:] if job_id in self.described)
        if argv[0] == "qsub":
            self.at.append(self.now)
        answer = self.answers[argv[0]].pop(0)
        if argv[0] == "qselect":
            self.after_qselect()
        if isinstance(answer, ClientError):
            raise answer
        return answer


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr("vllm_hpc.schedulers.in_script.resubmit.time", made)
    for module in ("scheduler", "pbs", "pbs.from_inside"):
        monkeypatch.setattr(f"vllm_hpc.schedulers.{module}.call_client", made.call)
    monkeypatch.setattr("vllm_hpc.schedulers.pbs.from_inside.find_job.__defaults__", (made.call,))
    return made


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    """A job whose script began 85 s ago, of two minutes."""
    made = crafted.make_job(tmp_path / "job", 10, "pbs")
    limit(made, "2:00")
    (made.path / "script.pbs").write_text("#!/bin/sh\n#PBS -N job\n")
    write_json(made.submitted, Submitted("pbs", "12.head", 0.0))
    write_json(made.attempt(1), Attempt(attempt=1, task=0, job_id="12.head", host="n1", started_at=915.0))
    return made


def again(folder: JobFolder) -> Again | None:
    return read_json(folder.again, Again)


def ask(folder: JobFolder) -> int:
    return main([str(folder.path), "1", "again"])


def submitted(folder: JobFolder) -> str:
    record = read_json(folder.submitted, Submitted)
    assert record is not None
    return record.job_id


@pytest.mark.parametrize("refused", [DOWN, NOT_ENABLED, LIMIT, OF_A_HOOK, HOOKS_OWN_WORDS, UNKNOWN_HOST])
def test_a_refusal_that_may_pass_is_asked_again(
    folder: JobFolder, world: World, refused: ClientError, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answers["qsub"] = [refused, refused, "13.head\n"]
    assert ask(folder) == 0
    assert submitted(folder) == "13.head"
    assert world.at == [1000, 1005, 1015], "with growing pauses"
    said = capsys.readouterr()
    assert "not submitted again yet: qsub refused: " in said.err
    assert "next try in 10 s" in said.err
    assert said.out == "vllm-hpc: submitted again as 13.head\n"
    assert again(folder) is None


def test_meanwhile_it_is_on_record(folder: JobFolder, world: World) -> None:
    seen: list[Again | None] = []
    world.at_each_step = lambda: seen.append(again(folder))
    world.answers["qsub"] = [DOWN, "13.head"]
    ask(folder)
    (first,) = set(seen)
    assert first is not None
    assert (first.job_id, first.attempt, first.next_at) == ("12.head", 1, 1005.0)
    assert first.reason.startswith("qsub refused: Connection refused cannot connect to server pbshead (errno=15010)")


def test_it_ends_ahead_of_the_walltime_and_leaves_it_to_a_login_node(
    folder: JobFolder, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.answers["qsub"] = [DOWN] * 20
    assert ask(folder) == 0, "another attempt will follow"
    assert world.now < 915 + LIMIT_S - 5
    assert len(world.at) == 3
    left = again(folder)
    assert left is not None
    assert left.next_at == world.now
    assert submitted(folder) == "12.head"
    assert not folder.taken("12.head").exists()
    assert "'vllm-hpc status' on a login node does it" in capsys.readouterr().out


@pytest.mark.parametrize("refused", [NO_TRUST, NO_ACCESS, ClientMissingError("qsub was not found")])
def test_a_host_that_may_not_submit_does_not_keep_its_gpus_waiting(
    folder: JobFolder, world: World, refused: ClientError
) -> None:
    world.answers["qsub"] = [refused]
    assert ask(folder) == 0
    assert world.now == 1000
    left = again(folder)
    assert left is not None
    assert str(refused) in left.reason


def test_a_script_that_will_always_be_refused_is_not_submitted_by_anybody(folder: JobFolder, world: World) -> None:
    world.answers["qsub"] = [DOWN, refusal("Unknown queue", 170)]
    assert ask(folder) == 1
    assert world.now == 1005
    assert again(folder) is None


def limit(folder: JobFolder, time: str | None) -> None:
    record = folder.job()
    request = msgspec.structs.replace(record.request, time=time)
    write_json(folder.job_json, msgspec.structs.replace(record, request=request))


def test_without_a_walltime_it_is_tried_for_a_while(folder: JobFolder, world: World) -> None:
    limit(folder, None)
    world.answers["qsub"] = [DOWN] * 100
    assert ask(folder) == 0
    assert 1500 < world.now < 1610
    assert max(after - before for before, after in zip(world.at, world.at[1:], strict=False)) == 60


# -- told to stop ----------------------------------------------------------------------------------------------------


def test_who_deletes_it_meanwhile_wants_no_other(
    folder: JobFolder, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.at_each_step = lambda: os.kill(os.getpid(), signal.SIGTERM)
    world.answers["qsub"] = [DOWN]
    before = signal.getsignal(signal.SIGTERM)
    assert ask(folder) == 1
    assert signal.getsignal(signal.SIGTERM) == before
    assert again(folder) is None
    assert "not submitted again: the job was told to stop" in capsys.readouterr().err


def test_also_who_does_so_in_the_last_moment(folder: JobFolder, world: World) -> None:
    def end() -> None:
        if world.now == 1005:
            os.kill(os.getpid(), signal.SIGTERM)

    world.at_each_step = end
    world.answers["qsub"] = [DOWN, "13.head"]
    assert ask(folder) == 1
    assert world.at == [1000]


def test_the_end_of_the_walltime_is_no_such_word(folder: JobFolder, world: World) -> None:
    def end() -> None:
        world.now = 915 + LIMIT_S
        os.kill(os.getpid(), signal.SIGTERM)

    world.at_each_step = end
    world.answers["qsub"] = [DOWN, DOWN]
    assert ask(folder) == 0, "it is left to a login node"
    assert again(folder) is not None


@pytest.mark.parametrize("marker", ["cancelled", "drain"])
def test_a_cancel_meanwhile_ends_it(folder: JobFolder, world: World, marker: str) -> None:
    world.at_each_step = lambda: (folder.path / "control" / marker).touch()
    world.answers["qsub"] = [DOWN]
    assert ask(folder) == 1
    assert again(folder) is None


# -- an answer that was lost -----------------------------------------------------------------------------------------


def described(job_id: str, log: Path) -> str:
    return f"Job Id: {job_id}\n    Job_Name = job\n    Output_Path = pbshead:{log}\n"


def test_a_submission_whose_answer_was_lost_is_found(folder: JobFolder, world: World) -> None:
    world.answers |= {"qsub": [LOST], "qselect": ["11.head\n12.head\n13.head\n14.head\n"]}
    world.described = {
        "14.head": described("14.head", Path("/another/job/logs/scheduler.out")),
        "13.head": described("13.head", folder.scheduler_log),
    }
    assert ask(folder) == 0
    assert submitted(folder) == "13.head"
    assert world.asked == ["qsub", "qselect", "qstat"]


def test_the_job_itself_is_not_taken_for_the_new_one(folder: JobFolder, world: World) -> None:
    """It still runs, and PBS names it with its server, as the site's qsub did not."""
    write_json(folder.submitted, Submitted("pbs", "12", 0.0))
    world.answers |= {"qsub": [LOST, "13"], "qselect": ["12.head\n"]}
    world.described = {"12.head": described("12.head", folder.scheduler_log)}
    assert ask(folder) == 0
    assert submitted(folder) == "13"


def test_one_that_pbs_does_not_have_is_submitted_again(folder: JobFolder, world: World) -> None:
    """Not at once: a busy server may still be taking it."""
    world.answers |= {"qsub": [LOST, "13.head"], "qselect": [""]}
    assert ask(folder) == 0
    assert submitted(folder) == "13.head"
    assert world.asked == ["qsub", "qselect", "qsub"]
    assert world.at[1] >= 1000 + 15


def test_it_is_looked_for_once_more_after_a_refusal(folder: JobFolder, world: World) -> None:
    limit(folder, "10:00")
    world.answers |= {"qsub": [LOST, DOWN], "qselect": ["", "13.head\n"]}
    world.described = {"13.head": described("13.head", folder.scheduler_log)}
    assert ask(folder) == 0
    assert submitted(folder) == "13.head"
    assert world.asked == ["qsub", "qselect", "qsub", "qselect", "qstat"]


def test_not_if_another_process_submits_it_meanwhile(
    folder: JobFolder, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both have asked PBS, which has no such job."""
    world.answers |= {"qsub": [LOST, "14.head"], "qselect": [""]}
    world.after_qselect = lambda: folder.take("12.head", 2)
    assert ask(folder) == 1
    assert world.asked == ["qsub", "qselect"]
    assert "another process does so" in capsys.readouterr().err


def test_one_that_has_begun_meanwhile_is_known_by_its_attempt(folder: JobFolder, world: World) -> None:
    world.answers |= {"qsub": [LOST], "qselect": []}
    begin = Attempt(attempt=2, task=0, job_id="13.head", host="n2", started_at=time.time())
    world.at_each_step = lambda: write_json(folder.attempt(2), begin)
    assert ask(folder) == 0
    assert submitted(folder) == "13.head"
    assert world.asked == ["qsub"]


def test_while_that_is_not_known_nothing_is_submitted(folder: JobFolder, world: World) -> None:
    world.answers |= {"qsub": [LOST], "qselect": [DOWN] * 20}
    assert ask(folder) == 0
    assert world.asked.count("qsub") == 1
    assert folder.taken("12.head").exists()
    left = again(folder)
    assert left is not None
    assert "it may be submitted already" in left.reason


def test_the_clock_of_these_tests_is_not_the_real_one(world: World) -> None:
    assert time.time() != world.time()
