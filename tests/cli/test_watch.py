"""watch, wait and status --watch: what they print in a pipe, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import Cli
from tests.crafted import end, make_job, progress, rank, result, start, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted

pytestmark = pytest.mark.notebooks


def make(desk: Path, name: str, done: int = 2, exit_code: int | None = 0) -> JobFolder:
    folder = make_job(desk / "runs" / name, 2)
    start(folder)
    rank(folder, 0, "ok")
    write_lines(folder.shard(0, 1), [result(index) for index in range(done)])
    progress(folder, done, tokens=3 * done)
    if exit_code is not None:
        end(folder, exit_code)
    if done == 1:
        folder.drain.touch()
    return folder


@pytest.mark.parametrize("command", ["watch", "wait"])
def test_the_exit_code_is_the_jobs(desk: Path, run_cli: Cli, command: str) -> None:
    make(desk, "whole")
    make(desk, "part", done=1)
    make(desk, "broken", done=0, exit_code=7)
    assert run_cli(command, "whole") == (0, "whole: COMPLETED 2/2\n", "")
    assert run_cli(command, "part") == (3, "part: PARTIAL 1/2\n", "")
    failed = run_cli(command, "broken")
    assert (failed.code, failed.out) == (1, "broken: FAILED 0/2\n")
    assert failed.err.startswith("Error: FAILED: ")
    assert failed.err.endswith(f"; see: vllm-hpc logs {desk / 'runs' / 'broken'}\n")
    assert run_cli(command, "none").code == 2


def test_wait_for_several(desk: Path, run_cli: Cli) -> None:
    for name, done in (("one", 2), ("two", 2), ("part", 1)):
        make(desk, name, done)
    assert run_cli("wait", "one", "two") == (0, "one: COMPLETED 2/2\ntwo: COMPLETED 2/2\n", "")
    outcome = run_cli("wait", "one", "part", "two", "--json")
    assert outcome.code == 3
    assert [one["state"] for one in json.loads(outcome.out)] == ["COMPLETED", "PARTIAL", "COMPLETED"]
    assert run_cli("wait", "*o*", "one").out == "one: COMPLETED 2/2\ntwo: COMPLETED 2/2\n"
    make(desk, "broken", done=0, exit_code=7)
    assert run_cli("wait", "part", "broken").code == 1
    assert json.loads(run_cli("wait", "one", "--json").out)["rows"] == {"total": 2, "done": 2, "failed": 0}
    assert run_cli("wait").code == 2


@pytest.mark.parametrize("word", ["1234[].pbs", "1234[]", "1234["])
def test_an_id_with_the_letters_of_a_pattern_is_waited_for(desk: Path, run_cli: Cli, word: str) -> None:
    """A PBS array's; of a job that is only looked at, the beginning of its id is enough."""
    folder = make(desk, "array")
    write_json(folder.submitted, Submitted("pbs", "1234[].pbs", 1000.0))
    outcome = run_cli("wait", word, "--timeout", "0")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (
        130, "Interrupted: no end after 0 s; the job continues: vllm-hpc watch array"
    )  # fmt: skip


def waiting(desk: Path, name: str) -> JobFolder:
    """A job in the queue of a Slurm that takes its time."""
    (desk / "bin" / "squeue").write_text('#!/bin/sh\necho "77|PENDING|Priority|N/A"\n')
    (desk / "bin" / "squeue").chmod(0o755)
    return make_job(desk / "runs" / name, 2, "slurm")


def test_a_wait_has_a_limit(desk: Path, run_cli: Cli) -> None:
    waiting(desk, "first")
    outcome = run_cli("wait", "first", "--timeout", "0")
    said = "Interrupted: no end after 0 s; the job continues: vllm-hpc watch first"
    assert (outcome.code, outcome.out, outcome.err.splitlines()[-1]) == (130, "", said)
    assert outcome.err.startswith("PENDING: ")
    make(desk, "second")
    outcome = run_cli("wait", "first", "second", "--timeout", "0")
    assert (outcome.code, outcome.err) == (130, "Interrupted: no end of 1 of 2 jobs after 0 s: they continue\n")
    for bad in ("-1", "nan", "x"):
        assert run_cli("wait", "second", "--timeout", bad).code == 2


def test_an_interrupt_leaves_the_job(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting(desk, "first")

    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vllm_hpc.api.live.time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    monkeypatch.setattr("vllm_hpc.cli.watch.time", SimpleNamespace(sleep=sleep, monotonic=lambda: 0.0))
    for args in (["watch", "first"], ["status", "first", "--watch"]):
        outcome = run_cli(*args)
        assert (outcome.code, outcome.err) == (130, "Interrupted: the job continues: vllm-hpc watch first\n")
        assert outcome.out.startswith("PENDING: ")
    make(desk, "second")
    outcome = run_cli("status", "--watch")
    assert (outcome.code, outcome.err) == (130, "Interrupted: the jobs continue\n")
    assert "first" in outcome.out
    outcome = run_cli("wait", "first", "second")
    assert (outcome.code, outcome.err) == (130, "Interrupted: the jobs continue\n")


def test_status_watch_ends_with_the_last_job(desk: Path, run_cli: Cli) -> None:
    make(desk, "first")
    outcome = run_cli("status", "--watch")
    assert (outcome.code, outcome.out) == (0, run_cli("status").out)
    assert run_cli("status", "first", "--watch") == (0, "first: COMPLETED 2/2\n", "")
    outcome = run_cli("status", "--watch", "--json")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: --watch is for people")


def test_what_is_not_submitted_is_not_waited_for(desk: Path, run_cli: Cli) -> None:
    folder = waiting(desk, "first")
    folder.submitted.unlink()
    lost = {"mark": "", "words": "not submitted.", "is_by_hand": True}
    folder.lost.write_text(json.dumps(lost))
    outcome = run_cli("wait", "first")
    assert (outcome.code, outcome.err) == (1, "Error: first is not submitted, so nothing is waited for\n")


def test_a_log_on_a_terminal_is_printed_in_whole_lines(
    desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(desk, "first")
    said = "one\n[red]two\x1b[31m\n\x1b]52;c;x\x07" + "long " * 100 + "\nno end"
    folder.scheduler_log.write_text(said)
    monkeypatch.setattr("vllm_hpc.api.live.is_live", lambda stream: True)
    long = "\ufffd]52;c;x\ufffd" + "long " * 100
    assert run_cli("logs", "first", "--follow").out.rstrip() == f"one\n[red]two\n{long}\nno end"
    folder.scheduler_log.write_text("x" * 200_000 + "\n\xff")
    assert run_cli("logs", "first", "--follow").out.count("x") == 200_000
    folder.scheduler_log.unlink()
    outcome = run_cli("logs", "first", "--follow")
    assert (outcome.code, outcome.err) == (0, "No log yet: the job is COMPLETED (every row has a result).\n")
