"""find_job on PBS: which of a user's jobs is the folder's, whose id was lost on its way."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from tests.crafted import make_job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers.client import ClientError, ClientTimeoutError
from vllm_hpc.schedulers.pbs.from_inside import find_job

pytestmark = pytest.mark.inputs
NO_LOG = Path("/another/job/logs/scheduler.out")


class Server:
    """What qselect lists, and what qstat says of these jobs."""

    def __init__(self, folder: JobFolder, ours: list[str], others: list[str]) -> None:
        self.logs = dict.fromkeys(ours, folder.scheduler_log) | dict.fromkeys(others, NO_LOG)
        self.ended: list[str] = []
        self.asked: list[list[str]] = []
        self.code = 153

    def ask(self, argv: list[str]) -> str:
        self.asked.append(argv)
        if argv[0] == "qselect":
            return "\n".join(self.logs)
        known = [job_id for job_id in argv[2:] if job_id not in self.ended]
        text = "\n".join(f"Job Id: {one}\n    Output_Path = pbshead:{self.logs[one]}\n" for one in known)
        if len(known) == len(argv[2:]):
            return text
        error = ClientError("qstat refused: Unknown Job Id")
        error.code, error.output = self.code, text
        raise error


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = make_job(tmp_path / "job", scheduler="pbs")
    (made.path / "script.pbs").write_text("#!/bin/sh\n#PBS -N name\n")
    return made


def ids(first: int, count: int) -> list[str]:
    return [f"{number}.head" for number in range(first, first + count)]


def test_only_own_jobs_of_that_name_are_looked_at(folder: JobFolder) -> None:
    server = Server(folder, ["13.head"], ["14.head"])
    assert find_job(folder, [], server.ask) == "13.head"
    assert server.asked[0] == ["qselect", "-u", pwd.getpwuid(os.geteuid()).pw_name, "-N", "name"]
    assert server.asked[1:] == [["qstat", "-f", "14.head", "13.head"]]


def test_where_the_user_has_no_name_all_are(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 2**31 - 7)
    server = Server(folder, ["13.head"], [])
    assert find_job(folder, [], server.ask) == "13.head"
    assert server.asked[0] == ["qselect", "-N", "name"]


@pytest.mark.parametrize("known", ["12", "12.head"])
def test_an_earlier_submission_is_none_however_qsub_printed_its_id(folder: JobFolder, known: str) -> None:
    assert find_job(folder, [known], Server(folder, ["12.head"], []).ask) is None
    assert find_job(folder, [known], Server(folder, ["12.head", "13.head"], []).ask) == "13.head"
    assert find_job(folder, [f"{known.replace('12', '12[]')}"], Server(folder, ["12[].head"], []).ask) is None


@pytest.mark.parametrize("newer", [26, 100, 999])
def test_it_is_found_behind_newer_ones_of_its_name(folder: JobFolder, newer: int) -> None:
    assert find_job(folder, ["12.head"], Server(folder, ["13.head"], ids(14, newer)).ask) == "13.head"


def test_if_there_are_too_many_nobody_says_that_it_is_not_there(folder: JobFolder) -> None:
    with pytest.raises(ClientError, match="more than 1000 jobs of yours have its name"):
        find_job(folder, ["12.head"], Server(folder, ["13.head"], ids(14, 1000)).ask)
    assert find_job(folder, ["12.head"], Server(folder, ["2000.head"], ids(14, 1000)).ask) == "2000.head"
    assert find_job(folder, ["12.head"], Server(folder, [], ids(14, 1000)).ask) is None


@pytest.mark.parametrize("code", [153, 35])
def test_one_that_ends_meanwhile_hides_no_other(folder: JobFolder, code: int) -> None:
    server = Server(folder, ["13.head"], ["14.head"])
    server.ended, server.code = ["14.head"], code
    assert find_job(folder, [], server.ask) == "13.head"


@pytest.mark.parametrize("name", ["qselect", "qstat"])
def test_a_server_that_does_not_answer_says_nothing(folder: JobFolder, name: str) -> None:
    server = Server(folder, ["13.head"], [])

    def ask(argv: list[str]) -> str:
        if argv[0] == name:
            raise ClientTimeoutError(f"{name} did not answer")
        return server.ask(argv)

    with pytest.raises(ClientTimeoutError):
        find_job(folder, [], ask)
