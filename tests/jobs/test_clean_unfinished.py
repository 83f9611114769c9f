"""clean of jobs that have ended and have not COMPLETED: what is left says and does what it said and did before."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.named_jobs import failed_row, named_job
from tests.conftest import Cli
from tests.crafted import end, error, make_job, rank, result, start, write_lines
from tests.engine.test_suspect_rows import claimed, crash, finished, judge, over
from tests.jobs.test_clean import files
from tests.real_jobs import PATIENCE_S, rehearsed_texts, started, submit_tiny
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Claimed
from vllm_hpc.jobs import clean as cleaning
from vllm_hpc.jobs.clean import clean
from vllm_hpc.jobs.resume import rows_left
from vllm_hpc.jobs.status import read_status
from vllm_hpc.jobs.task_states import Verdict
from vllm_hpc.spec.errors import FailedError

pytestmark = pytest.mark.throughput

GONE = {
    "state/heartbeat-0.json", "state/.reserve-0", "state/joined-1-0", "state/failed-1", "state/node-1-0",
    "state/left-1-0", "state/doctor-node-1-0.json", "state/claims/0.1", "ranks/77_0_submitted.pkl",
    "ranks/submission_file_1a.sh",
}  # fmt: skip
RECORDS = {"state/env-0.json", "state/samples-0.1.jsonl"}
LOG = "logs/rank-0.log"
# Read by the next attempt, and by status.
STAY = {"state/claimed-0.1.jsonl", "state/crash-0.1.json", "state/suspects-0.json", "ranks/rank-0.json"}
ASKED = (
    ("status", "one", "--json"), ("list", "--json"), ("list",), ("errors", "one"), ("show", "one", "--head", "3"),
    ("collect", "one", "--json"), ("logs", "one"),
)  # fmt: skip
COLLECTING = r'"collect": [0-9.]+'
SOME: list[dict[str, Any]] = [result(0), failed_row(1, "no")]


def partial_by_errors(folder: JobFolder) -> None:
    write_lines(folder.shard(0, 1), [*SOME, result(2)])
    rank(folder, 0, "ok")
    end(folder)


def partial_by_walltime(folder: JobFolder) -> None:
    folder.drain_attempt(1).touch()
    rank(folder, 0, "ok")
    end(folder)


def partial_by_cancel(folder: JobFolder) -> None:
    folder.drain_attempt(1).touch()
    rank(folder, 0, "ok")
    end(folder, 0, "cancelled")


def failed_by_a_rank(folder: JobFolder) -> None:
    rank(folder, 0, "error", error=error("no memory"))
    end(folder, 1)


def failed_by_a_signal(folder: JobFolder) -> None:
    """Its rank's log says which."""
    (folder.path / LOG).write_text("vllm-hpc: rank 0 begins\nFatal Python error: Segmentation fault\n")
    rank(folder, 0, "running")
    end(folder, 139)


def failed_without_a_record(folder: JobFolder) -> None:
    """Its supervisor is gone, and its rank was last heard of long ago."""
    rank(folder, 0, "running")


def cancelled(folder: JobFolder) -> None:
    end(folder, 143, "cancelled")


def timeout(folder: JobFolder) -> None:
    end(folder, 143, "timeout")


def preempted(folder: JobFolder) -> None:
    write_json(folder.verdict(0), Verdict(1, "PREEMPTED", "for a larger job", job_id="77-1000"))


ENDS: dict[Callable[[JobFolder], None], str] = {
    partial_by_errors: "PARTIAL", partial_by_walltime: "PARTIAL", partial_by_cancel: "PARTIAL",
    failed_by_a_rank: "FAILED", failed_by_a_signal: "FAILED", failed_without_a_record: "FAILED",
    cancelled: "CANCELLED", timeout: "TIMEOUT", preempted: "PREEMPTED",
}  # fmt: skip


def ended(path: Path, ends: Callable[[JobFolder], None], rows: list[dict[str, Any]] = SOME) -> JobFolder:
    """A job of three rows that has ended so, with all that its ranks leave."""
    folder = named_job(path, rows, ends=False)
    for name in sorted(GONE | RECORDS | STAY | {LOG}):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("{}")
    (folder.path / "ranks/rank-0.json").unlink()
    ends(folder)
    old = time.time() - 3600
    os.utime(folder.heartbeat(0), (old, old))
    return folder


def say(run_cli: Cli) -> list[str]:
    """What each command prints; how long a collect took is of that one."""
    said = [run_cli(*words) for words in ASKED]
    return [f"{ran.code} {re.sub(COLLECTING, '', ran.out)}{ran.err}" for ran in said]


@pytest.mark.parametrize("ends", ENDS, ids=lambda ends: ends.__name__)
def test_all_commands_print_what_they_printed(desk: Path, run_cli: Cli, ends: Callable[[JobFolder], None]) -> None:
    folder = ended(desk / "runs" / "one", ends)
    before = say(run_cli)
    there, left = files(folder), rows_left(folder, retry_errors=True)
    state = read_status(folder).state
    assert state == ENDS[ends]
    outputs = folder.outputs.read_bytes()
    for keep in ([], ["--keep", "outputs"]):
        dry = run_cli("clean", "one", "--dry-run", *keep)
        assert files(folder) == there
        gone = (GONE if not keep else RECORDS | ({LOG} if state != "FAILED" else set())) & there
        ran = run_cli("clean", "one", *keep)
        assert (ran.code, ran.err, ran.out) == (0, "", dry.out.replace("would free", "freed"))
        assert f" in {len(gone)} files; its shards stay, which 'vllm-hpc resume' and 'collect' read\n" in ran.out
        assert there - files(folder) == gone
        there = files(folder)
        assert say(run_cli) == before
        folder.counted.unlink()
        assert say(run_cli) == before
    assert run_cli("clean", "one", "--keep", "outputs").out.startswith("one: nothing to remove; its shards stay, ")
    assert (folder.outputs.read_bytes(), rows_left(folder, retry_errors=True)) == (outputs, left)


def test_rows_on_trial_are_those_that_they_would_have_been(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", 40)
    claimed(folder, 1, Claimed(chunk=2), Claimed(chunk=0))
    finished(folder, 1, 0, 2, 20, 21)
    crash(folder, 1)
    over(folder, 1)
    folder.heartbeat(0).write_text("{}")
    shutil.copytree(folder.path, tmp_path / "copy")
    assert clean(folder, only_outputs=True).use.files == 1
    trial = judge(folder, 2)
    assert trial.groups
    assert trial == judge(JobFolder(tmp_path / "copy"), 2)


def test_a_job_with_a_rank_that_may_live_keeps_everything(desk: Path, run_cli: Cli) -> None:
    """Its supervisor was killed, and it is FAILED for status; the rank ends by itself, later."""
    folder = ended(desk / "runs" / "one", failed_without_a_record)
    folder.heartbeat(0).touch()
    assert read_status(folder).state == "FAILED"
    before = files(folder)
    ran = run_cli("clean", "one")
    assert (ran.code, ran.out, files(folder)) == (1, "", before)
    assert ran.err == (
        "Error: one: the job is FAILED, but a rank gave a sign of life in the last 30 s: clean it later\n"
    )


def test_what_another_attempt_has_written_meanwhile_stays(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody resumes the job just after its state was read."""
    folder = ended(desk / "runs" / "one", cancelled)

    def resumed(folder: JobFolder) -> object:
        status = read_status(folder)
        start(folder, 2)
        folder.heartbeat(0).write_text('{"rank": 0}')
        folder.joined(2, 0).touch()
        (folder.claims / "0.2").write_text("{}")
        return status

    monkeypatch.setattr(cleaning, "read_status", resumed)
    clean(folder)
    assert {"state/heartbeat-0.json", "state/joined-2-0", "state/claims/0.2"} < files(folder)
    assert not folder.joined(1, 0).exists()


@pytest.mark.parametrize("state", ["PENDING", "RUNNING", "UNKNOWN"])
def test_a_job_that_has_not_ended_keeps_everything(desk: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    folder = ended(desk / "runs" / "one", lambda folder: None)
    before, status = files(folder), msgspec.structs.replace(read_status(folder), state=state)
    monkeypatch.setattr(cleaning, "read_status", lambda folder: status)
    with pytest.raises(FailedError, match=f"the job is {state}: clean it when it has ended"):
        clean(folder, only_outputs=True)
    assert files(folder) - {"state/counted.json"} == before


def test_all_of_any_state_that_ended_long_ago_are_cleaned(desk: Path, run_cli: Cli) -> None:
    for name, ends in (("a", failed_by_a_rank), ("b", timeout), ("c", failed_without_a_record)):
        ended(desk / "runs" / name, ends)
    recent = JobFolder(desk / "runs" / "c")
    start(recent, 2)
    attempt = json.loads(recent.attempt(2).read_text())
    recent.attempt(2).write_text(json.dumps({**attempt, "started_at": time.time() - 60}))  # submitted years ago
    ran = run_cli("clean", "--older", "30d", "--json")
    found = {Path(one["job"]).name: one for one in json.loads(ran.out)}
    assert {name: (one["files"], one["kept"], one["shards_stay"]) for name, one in found.items()} == {
        "a": (len(GONE), None, True), "b": (len(GONE), None, True), "c": (0, "not that old", False)
    }  # fmt: skip
    assert (ran.code, ran.err) == (0, "")


def test_nothing_behind_a_link_is_removed(desk: Path) -> None:
    folder = ended(desk / "runs" / "one", timeout)
    outside = shutil.move(folder.path / "state", desk / "outside")
    (folder.path / "state").symlink_to(outside)
    before = set(Path(outside).rglob("*"))
    assert clean(folder).use.files == len([name for name in GONE if not name.startswith("state")])
    assert before <= set(Path(outside).rglob("*"))


@pytest.mark.full
@pytest.mark.ranks
def test_a_job_that_was_cancelled_and_cleaned_is_resumed_to_its_end(tmp_path: Path) -> None:
    rows = [{"prompt": f"row {number}"} for number in range(400)]
    job = started(submit_tiny(None, tmp_path, rows, max_tokens=8, rehearse={"tokens_per_s": 400}, max_requeues=0))
    job.cancel()
    done = job.status().rows.done
    assert 0 < done < 400
    assert clean(job.folder, only_outputs=True).use.files > 3
    assert job.resume() == 400 - done
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()[-3000:]
    assert [row["text"] for row in job.results()] == rehearsed_texts(rows, 8)
