"""What a scheduler has answered, shared by a user's processes: few questions, and none is answered by an old answer."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.status import read_status, read_statuses
from vllm_hpc.schedulers import polling, shared_answers
from vllm_hpc.schedulers.client import Ask
from vllm_hpc.schedulers.polling import StatusCache
from vllm_hpc.schedulers.scheduler import JobState, Question, get_scheduler

pytestmark = pytest.mark.notebooks
# A squeue that knows every job that it is asked about, in the state of a file, and notes each question.
SQUEUE = """#!/bin/bash
echo "$*" >> "$HERE/asked"
for word; do case "$word" in --jobs=*) ids=${word#--jobs=};; esac; done
state=$(cat "$HERE/state")
[ "$state" != none ] || { echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1; }
[ "$state" != slow ] || { sleep 0.3; state=RUNNING; }
for id in ${ids//,/ }; do echo "$id|$state|None|N/A"; done
"""
OTHERS = '#!/bin/sh\necho "slurm_load_jobs error: Invalid job id specified" >&2; exit 1\n'


class Site:
    """A Slurm with one client that counts, and jobs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.clock = folder, 1_000_000.0
        (folder / "bin").mkdir()
        for name, text in (("squeue", SQUEUE), ("sbatch", OTHERS), ("scontrol", OTHERS), ("sacct", OTHERS)):
            (folder / "bin" / name).write_text(text)
            (folder / "bin" / name).chmod(0o755)
        self.says("RUNNING")

    def says(self, state: str) -> None:
        (self.folder / "state").write_text(state)

    @property
    def asked(self) -> list[str]:
        """The questions so far."""
        found = self.folder / "asked"
        return found.read_text().splitlines() if found.exists() else []

    def job(self, name: str, job_id: str) -> JobFolder:
        made = crafted.make_job(self.folder / name, 3, "slurm")
        submit(made, job_id)
        return made


def submit(folder: JobFolder, job_id: str) -> None:
    write_json(folder.submitted, Submitted("slurm", job_id, crafted.SUBMITTED_AT))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    monkeypatch.setenv("HERE", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(shared_answers.VARIABLE, "10")
    monkeypatch.setattr("vllm_hpc.schedulers.shared_answers.time.time", lambda: made.clock)
    return made


def test_an_answer_is_good_for_ten_seconds(site: Site) -> None:
    job = Job(site.job("a", "77").path)
    assert [job.status().state for _ in range(5)] == ["RUNNING"] * 5
    site.says("PENDING")
    site.clock += 9.9
    assert job.status().state == "RUNNING"
    assert len(site.asked) == 1
    site.clock += 0.2
    assert job.status().state == "PENDING"
    assert len(site.asked) == 2


def test_one_asks_for_all_who_watch(site: Site) -> None:
    """Three notebooks, each with its own job, over a minute: a question in ten seconds, not three."""
    jobs = [Job(site.job(name, job_id).path) for name, job_id in (("a", "77"), ("b", "78"), ("c", "79"))]
    for job in jobs:
        job.status()
    before = len(site.asked)
    for _ in range(60):
        site.clock += 1.0
        assert [job.status().state for job in jobs] == ["RUNNING"] * 3
    assert len(site.asked) - before <= 6
    assert all(one in site.asked[-1] for one in ("77", "78", "79"))
    # Who is no longer watched is no longer asked about.
    for _ in range(10):
        site.clock += 11.0
        jobs[0].status()
    assert "78" not in site.asked[-1]


def test_a_list_uses_the_answers_too(site: Site) -> None:
    folders = [site.job(name, job_id) for name, job_id in (("a", "77"), ("b", "78"))]
    assert [one.state for one in read_statuses(folders)] == ["RUNNING"] * 2
    assert [one.state for one in read_statuses(folders)] == ["RUNNING"] * 2
    assert Job(folders[0].path).status().state == "RUNNING"
    assert len(site.asked) == 1


@pytest.mark.parametrize("change", ["submission", "attempt", "end"])
def test_an_answer_is_only_one_to_its_question(site: Site, change: str) -> None:
    """After 'resume', or when the folder tells of something new, the scheduler is asked at once."""
    folder = site.job("a", "77")
    if change == "end":
        crafted.start(folder)
    job = Job(folder.path)
    job.status()
    site.says("PENDING")
    if change == "submission":
        submit(folder, "80")
    elif change == "attempt":
        crafted.start(folder)
    else:
        crafted.end(folder, 1, "requeue")
    assert job.status().state == "PENDING"


def test_who_acts_asks_and_the_others_hear_of_it(site: Site) -> None:
    folder = site.job("a", "77")
    job = Job(folder.path)
    job.status()
    site.says("CANCELLED")
    assert read_status(folder).state == "CANCELLED"  # as 'cancel' looks after it has cancelled
    assert job.status().state == "CANCELLED"
    assert len(site.asked) == 2


def test_a_job_that_was_unknown_before_it_was_submitted_is_asked_about(site: Site) -> None:
    other = site.job("a", "77")
    site.says("none")
    Job(other.path).status()
    site.says("PENDING")
    assert Job(site.job("b", "78").path).status().state == "PENDING"


TWO = """
import sys, vllm_hpc
print(vllm_hpc.Job(sys.argv[1]).status().state)
"""


def test_processes_that_ask_at_once_ask_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(site.job("a", "77").path)
    site.says("slow")
    ask = [sys.executable, "-c", TWO, path]
    both = [subprocess.Popen(ask, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate(timeout=60)[0].strip() for one in both] == ["RUNNING"] * 2
    assert len(site.asked) == 1


def _no_folder(site: Site) -> None:
    (site.folder / "cache").write_text("not a folder")


def _a_folder_in_place(site: Site) -> None:
    for suffix in ("json", "lock"):
        _the_file(site, suffix).mkdir(parents=True)


def _rubbish(site: Site) -> None:
    _the_file(site, "json").write_bytes(b'{"77": \x00' + b"[" * 100_000)


def _of_the_future(site: Site) -> None:
    """The clock was set back."""
    site.clock -= 1_000_000 - 1


def _the_file(site: Site, suffix: str) -> Path:
    file = shared_answers._file("slurm", get_scheduler("slurm"))
    assert file is not None
    return file.with_suffix(f".{suffix}")


@pytest.mark.parametrize("harm", [_no_folder, _a_folder_in_place, _rubbish, _of_the_future])
def test_without_a_cache_everybody_asks(site: Site, harm: Callable[[Site], None]) -> None:
    job = Job(site.job("a", "77").path)
    if harm is _of_the_future:
        job.status()
        site.says("PENDING")
    harm(site)
    assert job.status().state == (site.folder / "state").read_text()


def test_a_scheduler_that_hangs_is_not_asked_by_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = site.job("a", "77")
    monkeypatch.setattr(shared_answers, "_PATIENCE_S", 0.1)
    lock = _the_file(site, "lock")
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status = read_status(folder, StatusCache(shares=True))
    assert (status.state, site.asked) == ("UNKNOWN", [])
    assert "another vllm-hpc of yours" in status.reason


def test_a_job_of_another_notebook_that_cannot_be_asked_about_is_no_harm(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder may be damaged, or gone; a scheduler of another package may raise whatever it likes."""
    one, other = (Job(site.job(name, job_id).path) for name, job_id in (("a", "77"), ("b", "78")))
    other.status()
    site.clock += 11
    slurm = get_scheduler("slurm")

    def fail(questions: Sequence[Question], ask: Ask) -> list[dict[str, JobState]]:
        raise RuntimeError(f"{len(questions)} jobs")

    monkeypatch.setattr(polling, "installed_scheduler", lambda name: replace(slurm, query_all=fail))
    assert one.status().state == "RUNNING"


@pytest.mark.parametrize(("said", "seconds"), [("", 10.0), ("0", 0.0), ("30", 30.0), ("x", 10.0), ("-1", 0.0)])
def test_how_often_is_the_users_word(monkeypatch: pytest.MonkeyPatch, said: str, seconds: float) -> None:
    monkeypatch.setenv(shared_answers.VARIABLE, said)
    assert shared_answers.fresh_s() == seconds


def test_with_0_everybody_asks(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(shared_answers.VARIABLE, "0")
    job: Any = Job(site.job("a", "77").path)
    job.status()
    job.status()
    assert len(site.asked) == 2
