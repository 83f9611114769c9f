"""The local script and supervisor without vLLM: a stand-in for torchrun on PATH lets their own behaviour be seen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.brisk import whole
from tests.crafted import lay_out
from tests.real_jobs import processes_of
from tests.schedulers.setup_names import spoil_names
from vllm_hpc import Job, submit
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Ending, ExitRecord, Progress


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Submit a job whose setup line and whose 'torchrun' are shell code of the test's."""
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)

    def run(setup: str = ":", torchrun: str = ":") -> Job:
        (tmp_path / "vllm-hpc.toml").write_text(f"[profiles.p]\nsetup = ['''{setup}''']\n")
        (tmp_path / "template" / "local.sh.j2").write_text(
            '{% extends "packaged/local.sh.j2" %}{% block launch %}start_work bash -c '
            + f"{{{{ {torchrun!r}|sh }}}}"
            + "\nwait_for_work\n{% endblock %}"
        )
        return submit("model", sample=True, scheduler="local", profile="p", template_dir="template", job_dir="runs")

    return run


def wait_for_file(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not made"
        time.sleep(0.05)


def test_cancel_while_the_setup_lines_run(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(setup=f"touch {tmp_path}/in-setup; sleep 2", torchrun=f"touch {tmp_path}/started; sleep 100")
    wait_for_file(tmp_path / "in-setup")
    assert job.cancel().state == "CANCELLED"
    assert not (tmp_path / "started").exists()
    assert processes_of(job) == []


def test_the_setup_may_use_any_plain_name(start: Callable[..., Job], tmp_path: Path) -> None:
    names = spoil_names(tmp_path / "precious")
    job = start(setup=f"export VLLM_HPC_JOIN_TIMEOUT=1; {names}", torchrun="sleep 3")
    job.wait(60)
    assert "not joined" not in job.logs()
    ended = job.folder.exit_of(1)
    assert ended is not None
    assert (ended.exit_code, ended.cause) == (0, "exit")


def test_a_signal_to_the_script_before_its_work_ends_it(start: Callable[..., Job], tmp_path: Path) -> None:
    job = start(setup=f"echo $$ > {tmp_path}/pid; touch {tmp_path}/in-setup; sleep 2", torchrun="sleep 100")
    wait_for_file(tmp_path / "in-setup")
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    status = job.wait(60)
    assert (status.state, "(TERM)" in status.reason) == ("FAILED", True), status


def test_a_script_that_cannot_write_says_so_and_stops(tmp_path: Path, start: Callable[..., Job]) -> None:
    """A full disk: every write fails, and the ledger does not count up for ever."""
    job = start(torchrun="exit 0")
    job.wait(60)
    script = whole((job.path / "script.sh").read_text()).replace('> "$file"', "> /dev/full")
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, "VLLM_HPC_JOB_ID": "1-1"}
    )
    assert done.returncode == 1
    assert "cannot write into" in done.stderr
    assert [file.name for file in (job.path / "attempts").glob("*.json")] == ["1.json"]


def test_a_waiter_never_sees_a_cancelled_job_as_failed(start: Callable[..., Job]) -> None:
    """Between the script's own exit record (a signal) and the supervisor's, the supervisor's intent is known."""
    job = start(torchrun="exit 1")
    job.wait(60)
    write_json(job.folder.exit_record(1), ExitRecord(attempt=1, exit_code=143, cause="TERM", ended_at=time.time()))
    assert job.status().state == "FAILED"
    write_json(job.folder.ending(1), Ending("cancelled"))
    assert job.status().state == "CANCELLED"


def test_the_exit_code_of_the_work_is_the_jobs(start: Callable[..., Job]) -> None:
    job = start(torchrun="echo the last words >&2; exit 7")
    status = job.wait(60)
    assert status.state == "FAILED"
    assert status.reason == "the script ended with exit code 7; the log ends with: the last words"


def test_two_submits_in_the_same_second_get_two_folders(start: Callable[..., Job], tmp_path: Path) -> None:
    jobs = [start(torchrun="exit 0") for _ in range(3)]
    assert len({job.path for job in jobs}) == 3
    for job in jobs:
        job.wait(60)


def test_collects_at_once_leave_one_whole_file(start: Callable[..., Job]) -> None:
    job = start(torchrun="exit 0")
    job.wait(60)
    collect = [sys.executable, "-m", "vllm_hpc", "collect", str(job.path)]
    running = [subprocess.Popen(collect, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(6)]
    assert [process.wait(60) for process in running] == [1] * 6
    assert len(job.folder.outputs.read_bytes().splitlines()) == 2
    assert not list(job.path.glob(".outputs*"))


def test_a_row_that_came_during_a_collect_is_not_missed(start: Callable[..., Job]) -> None:
    job = start(torchrun="exit 0")
    job.wait(60)
    job.collect()
    began = job.folder.outputs.stat().st_mtime
    shard = job.folder.shard(0, 1)
    shard.write_text('{"index":0,"id":"0","text":"late"}\n')
    os.utime(shard, (began + 0.001, began + 0.001))  # after the look at the shards, before the file was whole
    write_json(job.folder.progress(0), Progress(replica=0, attempt=1, done=1))
    assert next(iter(job.results()))["text"] == "late"
