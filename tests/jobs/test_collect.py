"""collect: exactly one line for every row, whatever the shards look like."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import (
    SUBMITTED_AT,
    end,
    error,
    layout,
    make_array,
    make_job,
    progress,
    rank,
    read_lines,
    result,
    start,
    write_lines,
)
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Attempt, ExitRecord, Progress, RankError, Run, Submitted
from vllm_hpc.jobs import collect as collecting
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.job import Job
from vllm_hpc.spec.errors import CollectError, JobNotFoundError


def texts(folder: JobFolder) -> list[str]:
    return [row.get("text", row.get("error", {}).get("type")) for row in read_lines(folder.outputs)]


def test_rows_come_out_in_input_order_from_every_replica(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=4, shape=layout(dp=2))
    write_lines(folder.shard(1, 1), [result(3, "d"), result(0, "a")])
    write_lines(folder.shard(0, 1), [result(2, "c"), result(1, "b")])
    summary = collect(folder)
    assert texts(folder) == ["a", "b", "c", "d"]
    assert [row["index"] for row in read_lines(folder.outputs)] == [0, 1, 2, 3]
    assert summary.rows == {"total": 4, "done": 4, "failed": 0, "missing": 0}
    assert (summary.prompt_tokens, summary.completion_tokens) == (8, 12)


def test_a_shard_line_is_copied_as_it_is(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    row = result(0, "naïve\u2028 日本", tag={"b": [1, None], "a": 1.5})
    write_lines(folder.shard(0, 1), [row])
    collect(folder)
    assert folder.outputs.read_bytes() == folder.shard(0, 1).read_bytes()


@pytest.mark.parametrize("torn", ["{", '{"index": 1, "text": "lost', json.dumps(result(1, "unfinished"))])
def test_a_torn_last_line_is_no_row(tmp_path: Path, torn: str) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(0, "a")], torn)
    assert collect(folder).rows == {"total": 2, "done": 1, "failed": 0, "missing": 1}
    assert texts(folder) == ["a", "missing"]


def test_a_row_torn_in_one_attempt_is_taken_from_the_next(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(0, "a")], json.dumps(result(1, "torn"))[:-1])
    write_lines(folder.shard(0, 2), [result(1, "again")])
    collect(folder)
    assert texts(folder) == ["a", "again"]


@pytest.mark.parametrize(("low", "high"), [(1, 2), (2, 10), (9, 10), (99, 100)])
@pytest.mark.parametrize(("low_replica", "high_replica"), [(0, 0), (1, 0), (0, 1), (10, 2)])
def test_of_a_row_in_two_shards_the_lowest_attempt_wins(
    tmp_path: Path, low: int, high: int, low_replica: int, high_replica: int
) -> None:
    folder = make_job(tmp_path / "job", rows=1, shape=layout(dp=11))
    write_lines(folder.shard(high_replica, high), [result(0, "high", completion_tokens=50)])
    write_lines(folder.shard(low_replica, low), [result(0, "low")])
    summary = collect(folder)
    assert texts(folder) == ["low"]
    assert summary.rows["done"] == 1
    assert summary.completion_tokens == 3, "a row counts once"


def test_missing_rows_become_error_rows(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", [{"prompt": "a"}, {"id": "x", "prompt": "b", "tag": [1]}, {"prompt": "c"}])
    write_lines(folder.shard(0, 1), [result(2, "c")])
    assert collect(folder).rows == {"total": 3, "done": 1, "failed": 0, "missing": 2}
    first, second, third = read_lines(folder.outputs)
    assert set(first) == {"index", "id", "error"}
    assert (second["index"], second["id"], second["tag"]) == (1, "x", [1])
    assert set(second["error"]) == {"type", "message"}
    assert second["error"]["type"] == "missing"
    assert "prompt" not in second
    assert third["text"] == "c"


def test_missing_rows_in_several_stretches_keep_their_ids(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", [{"id": name, "prompt": name} for name in "abcdefg"])
    write_lines(folder.shard(0, 1), [{**result(0), "id": "a"}, {**result(3), "id": "d"}, {**result(4), "id": "e"}])
    collect(folder)
    assert [(row["index"], row["id"], "error" in row) for row in read_lines(folder.outputs)] == [
        (0, "a", False), (1, "b", True), (2, "c", True), (3, "d", False), (4, "e", False), (5, "f", True),
        (6, "g", True),
    ]  # fmt: skip


def test_a_row_written_while_they_are_collected_is_among_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(0, "a")])
    merge, late, clock = collecting._merge, folder.shard(0, 2), tmp_path / "clock"

    def merge_and_one_more(*arguments: Any) -> None:
        merge(*arguments)
        write_lines(late, [result(1, "b")])
        now = time.time_ns()
        os.utime(late, ns=(now, now))
        clock.touch()
        while clock.stat().st_mtime_ns <= now:  # a file system's clock ticks every few milliseconds
            clock.touch()

    monkeypatch.setattr(collecting, "_merge", merge_and_one_more)
    collect(folder)
    monkeypatch.undo()
    assert [row.get("text") for row in Job(folder.path).results()] == ["a", "b"]


def test_a_row_with_an_error_is_counted_as_failed(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    bad = {"index": 0, "id": "0", "error": {"type": "ValueError", "message": "too long"}}
    write_lines(folder.shard(0, 1), [bad, result(1)])
    summary = collect(folder)
    assert summary.rows == {"total": 2, "done": 1, "failed": 1, "missing": 0}
    assert read_lines(folder.outputs)[0] == bad


def test_without_any_shard_every_row_is_missing(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=3)
    assert collect(folder).rows == {"total": 3, "done": 0, "failed": 0, "missing": 3}
    assert texts(folder) == ["missing"] * 3


def test_collecting_again_takes_what_came_since(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    write_lines(folder.shard(0, 1), [result(1, "b")])
    collect(folder)
    write_lines(folder.shard(0, 2), [result(0, "a")])
    collect(folder)
    assert texts(folder) == ["a", "b"]
    before = folder.outputs.read_bytes()
    collect(folder)
    assert folder.outputs.read_bytes() == before


@pytest.mark.parametrize(
    "line",
    ["hello\n", "{}\n", "[]\n", '{"index": "0"}\n', '{"index": 3}\n', '{"index": -1}\n', '{"index": 0', "\n"],
    ids=repr,
)
def test_a_line_that_no_rank_wrote_is_refused_with_its_file(tmp_path: Path, line: str) -> None:
    folder = make_job(tmp_path / "job", rows=3)
    foreign = line if line.endswith("\n") else line + "\n"
    folder.shard(0, 1).write_bytes(json.dumps(result(1)).encode() + b"\n" + foreign.encode("latin-1"))
    folder.outputs.write_text("as before\n")
    with pytest.raises(CollectError, match=r"replica-0\.1\.jsonl") as caught:
        collect(folder)
    assert "\n" not in str(caught.value)
    assert folder.outputs.read_text() == "as before\n"


@pytest.mark.parametrize("change", ["longer", "shorter", "gone"])
def test_an_input_that_was_edited_since_is_refused_with_its_file(tmp_path: Path, change: str) -> None:
    """Exactly one line per input row: with another input than the ranks read, nobody can keep that promise."""
    folder = make_job(tmp_path / "job", rows=3)
    write_lines(folder.shard(0, 1), [result(0), result(1), result(2)])
    lines = folder.input.read_text().splitlines(keepends=True)
    if change == "gone":
        folder.input.unlink()
    else:
        extra = json.dumps({"index": 3, "id": "3", "prompt": "new"}) + "\n"
        folder.input.write_text("".join([*lines, extra] if change == "longer" else lines[:2]))
    with pytest.raises(CollectError, match=r"input\.jsonl"):
        collect(folder)
    assert not folder.outputs.exists()
    assert not folder.outputs.with_name(".outputs.jsonl").exists(), "no half-written file is left behind"


def test_a_folder_without_a_job_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JobNotFoundError, match="not a job folder"):
        collect(JobFolder(tmp_path))


def test_the_summary_is_written_and_complete(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2, shape=layout(tp=2))
    start(folder)
    end(folder)
    rank(folder, 0, "ok", timings={"import": 1.0, "load": 8.0, "generate": 2.0})
    rank(folder, 1, "ok", timings={"import": 2.0, "load": 7.0, "generate": 3.0})
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    collect(folder)
    summary = json.loads(folder.summary.read_text())
    assert summary["rows"] == {"total": 2, "done": 2, "failed": 0, "missing": 0}
    assert summary["seconds"] == 65.0
    assert summary["tokens_per_s"] == 2.0
    timings = summary["timings"]
    assert (timings["queue"], timings["import"], timings["load"], timings["generate"]) == (5.0, 2.0, 8.0, 3.0)
    assert set(timings) >= {"queue", "launch", "import", "load", "generate", "collect"}
    assert summary["outputs"] == str(folder.outputs)


@pytest.mark.parametrize("submitted_again", [SUBMITTED_AT + 30, SUBMITTED_AT + 500, None])
def test_its_seconds_are_the_whole_jobs_also_after_a_resume(tmp_path: Path, submitted_again: float | None) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    start(folder)
    end(folder)
    folder.submitted.unlink()
    if submitted_again:
        write_json(folder.submitted, Submitted("local", "78-1000", submitted_again))
    assert collect(folder).seconds == 65.0


def test_clocks_that_differ_make_no_negative_seconds(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    start(folder)
    write_json(folder.exit_record(1), ExitRecord(attempt=1, exit_code=0, cause="exit", ended_at=SUBMITTED_AT - 1))
    assert collect(folder).seconds == 0.0


def replica_progress(folder: JobFolder, replica: int, *runs: Run) -> None:
    write_json(folder.progress(replica), Progress(replica=replica, attempt=runs[-1].attempt, done=1, runs=runs))


def run_of(attempt: int, generate: float, drain: float = 0.0, idle: float = 0.0, occupancy: float = 1.0) -> Run:
    seconds = {
        "launch": 0.5,
        "import": 1.0,
        "load": 2.0,
        "warm_up": 3.0,
        "generate": generate,
        "drain": drain,
        "idle": idle,
    }
    return Run(attempt=attempt, occupancy=occupancy, seconds=seconds)


def test_timings_are_summed_over_attempts_and_of_the_slowest_replica(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=2, shape=layout(dp=2))
    start(folder)
    end(folder)
    start(folder, attempt=2)
    replica_progress(folder, 0, run_of(1, 10.0, drain=2.0, idle=3.0, occupancy=0.5), run_of(2, 4.0))
    replica_progress(folder, 1, run_of(1, 6.0), run_of(2, 8.0, idle=3.0))
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    summary = collect(folder)
    assert {name: summary.timings[name] for name in ("import", "load", "warm-up", "generate", "drain")} == {
        "import": 2.0, "load": 4.0, "warm-up": 6.0, "generate": 18.0, "drain": 2.0,
    }  # fmt: skip
    assert list(summary.timings) == ["queue", "launch", "import", "load", "warm-up", "generate", "drain", "collect"]
    assert (summary.tokens_per_s, summary.prompt_tokens_per_s) == (round(6 / 18, 1), round(4 / 18, 1))
    assert (summary.occupancy, summary.idle) == (0.8, 0.2)
    assert summary.attempts == 2


def test_array_tasks_run_beside_each_other(tmp_path: Path) -> None:
    folder = make_array(tmp_path / "job", tasks=2)
    start(folder, attempt=1, task=0)
    start(folder, attempt=2, task=1)
    start(folder, attempt=3, task=0)
    replica_progress(folder, 0, run_of(1, 5.0), run_of(3, 4.0))
    replica_progress(folder, 1, run_of(2, 7.0))
    assert collect(folder).timings["generate"] == 9.0


def test_waiting_again_counts_as_queue(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    start(folder)
    end(folder)
    again = Attempt(attempt=2, job_id="77-1000", host="node-1", started_at=SUBMITTED_AT + 100)
    write_json(folder.attempt(2), again)
    assert collect(folder).timings["queue"] == 5.0 + 35.0


def test_the_exit_code_tells_whether_all_rows_are_there(tmp_path: Path, run_cli: Cli) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    start(folder)
    write_lines(folder.shard(0, 1), [result(0)])
    end(folder, 143, "timeout")
    assert run_cli("collect", folder.path).code == 3
    write_lines(folder.shard(0, 2), [{"index": 1, "id": "1", "error": {"type": "E", "message": "m"}}])
    assert run_cli("collect", folder.path, "--json").code == 3
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    done = run_cli("collect", folder.path, "--json")
    assert done.code == 0
    assert json.loads(done.out)["rows"] == {"total": 2, "done": 2, "failed": 0, "missing": 0}


def test_a_foreign_line_is_one_error_line_and_exit_code_1(tmp_path: Path, run_cli: Cli) -> None:
    folder = make_job(tmp_path / "job", rows=1)
    folder.shard(0, 1).write_text("hello\n")
    failed = run_cli("collect", folder.path)
    assert (failed.code, failed.out) == (1, "")
    assert failed.err.startswith("Error: ")
    assert failed.err.count("\n") == 1


def test_list_shows_the_good_jobs_beside_a_broken_one(tmp_path: Path, run_cli: Cli) -> None:
    good = make_job(tmp_path / "runs" / "good", rows=3)
    progress(good, done=3)
    start(good)
    end(good)
    broken = make_job(tmp_path / "runs" / "broken")
    broken.job_json.write_text('{"request": ')
    listed = run_cli("list", "--job-dir", tmp_path / "runs", "--json")
    assert listed.code == 0
    jobs = {Path(job["job"]).name: job["state"] for job in json.loads(listed.out)}
    assert jobs["good"] == "COMPLETED"


def damage(folder: JobFolder, content: str) -> None:
    folder.job_json.unlink()
    if content == "folder":
        folder.job_json.mkdir()
    elif content == "loop":
        folder.job_json.symlink_to("job.json")
    else:
        folder.job_json.write_text(content)


@pytest.mark.trust
@pytest.mark.parametrize("rows", [-1, 10**9 + 1, 10**18, 10**30])
def test_a_neighbours_number_of_rows_does_not_end_a_list(tmp_path: Path, run_cli: Cli, rows: int) -> None:
    """It was what memory was taken for."""
    job = make_job(tmp_path / "runs" / "theirs", rows=2)
    write_lines(job.shard(0, 1), [result(0)])
    start(job)
    end(job)
    job.job_json.write_text(json.dumps({**json.loads(job.job_json.read_text()), "rows": rows}))
    done = run_cli("list", "--job-dir", tmp_path / "runs")
    assert (done.code, done.err) == (0, "")
    assert "UNKNOWN  its job.json is damaged (Expected `int`" in done.out
    done = run_cli("collect", job.path)
    assert (done.code, done.err.count("\n")) == (2, 1)


@pytest.mark.trust
def test_rows_that_do_not_fit_into_memory_are_one_line(
    tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path / "runs" / "theirs", rows=2)
    write_lines(job.shard(0, 1), [result(0)])
    start(job)
    end(job)

    def scan(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("vllm_hpc.jobs.progress.Scan", scan)
    done = run_cli("list", "--job-dir", tmp_path / "runs")
    assert "UNKNOWN  its rows need more memory than there is here" in done.out
    done = run_cli("status", job.path)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert done.err.startswith("Error: there is not enough memory here")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"request": ', "its job.json is damaged (Input data was truncated): restore it, or remove the folder"),
        ("", "its job.json is damaged (Input data was truncated)"),
        ("null", "its job.json is damaged (Expected `object`, got `null`)"),
        ('{"version": 2}', "its job.json is damaged (Object missing required field `request`)"),
        ('{"version": 99}', "it was submitted by a newer vllm-hpc: use that version, or upgrade"),
        ("folder", "its job.json cannot be read: it must be a regular file"),
        ("loop", "its job.json cannot be read: it must be a regular file, not a link"),
    ],
)
def test_list_tells_a_broken_job_and_why(tmp_path: Path, run_cli: Cli, content: str, reason: str) -> None:
    make_job(tmp_path / "runs" / "good")
    broken = make_job(tmp_path / "runs" / "broken")
    damage(broken, content)
    (tmp_path / "runs" / "no job").mkdir()
    (tmp_path / "runs" / "notes.txt").touch()
    jobs = json.loads(run_cli("list", "--job-dir", tmp_path / "runs", "--json").out)
    assert {Path(job["job"]).name for job in jobs} == {"good", "broken"}
    (found,) = [job for job in jobs if job["job"] == str(broken.path)]
    assert (found["state"], found["scheduler"], found["job_id"]) == ("UNKNOWN", "", None)
    assert found["reason"].startswith(reason)
    for command in ("list", "status"):
        shown = run_cli(command, "--job-dir", tmp_path / "runs")
        (line,) = [line for line in shown.out.splitlines() if line.startswith("broken")]
        assert (shown.code, line.split()[1], reason in line) == (0, "UNKNOWN", True)
    assert run_cli("status", "good", "--job-dir", tmp_path / "runs").code == 0
    assert run_cli("status", "77-1000", "--job-dir", tmp_path / "runs").code == 0


def test_a_file_that_may_not_be_read_hides_no_other_job(
    tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        make_job(tmp_path / "runs" / name)

    def attempts(folder: JobFolder) -> list[Attempt]:
        if folder.path.name == "theirs":
            raise PermissionError(13, "Permission denied", str(folder.path / "attempts"))
        return []

    monkeypatch.setattr(JobFolder, "attempts", attempts)
    jobs = json.loads(run_cli("list", "--job-dir", tmp_path / "runs", "--json").out)
    reasons = {Path(job["job"]).name: job["reason"] for job in jobs}
    assert reasons["theirs"] == f"{tmp_path / 'runs' / 'theirs' / 'attempts'} cannot be read: Permission denied"
    assert "cannot be read" not in reasons["mine"]


@pytest.mark.parametrize("command", [["list"], ["list", "--json"], ["status"], ["status", "77"]])
def test_a_job_dir_that_cannot_be_read_is_refused(
    tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    (tmp_path / "file").touch()
    ran = run_cli(*command, "--job-dir", tmp_path / "file")
    words = "cannot be read: {}: name the folder that holds the job folders\n"
    assert (ran.code, bool(ran.out)) == (2, "--json" in command)
    assert ran.err == f"Error: --job-dir '{tmp_path / 'file'}' {words.format('Not a directory')}"

    def denied(path: Path) -> list[str]:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    ran = run_cli(*command, "--job-dir", tmp_path)
    assert (ran.code, ran.err) == (2, f"Error: --job-dir '{tmp_path}' {words.format('Permission denied')}")


DIVERGED = "the ranks of replica 0 diverged: rank 0 was at step 4 (digest 00), rank 1 at step 4 (01)"


def failed_with_every_row(folder: JobFolder, message: str) -> None:
    start(folder)
    write_lines(folder.shard(0, 1), [result(0), result(1)])
    progress(folder, done=2)
    rank(folder, 0, "error", at=2.0, error=error("peer closed the connection", is_echo=True))
    rank(folder, 1, "error", at=3.0, error=RankError("DivergedError", message, ""))
    end(folder, 1)


@pytest.mark.parametrize(
    ("message", "advice"),
    [
        (DIVERGED, ": rows may be wrong: start a new job"),
        ("the ranks of replica 0 diverged: digests ['a', 'b']", ": rows may be wrong: start a new job"),
        ("No space left on device", ""),
    ],
)
def test_a_job_that_failed_says_so_although_every_row_is_there(
    tmp_path: Path, run_cli: Cli, message: str, advice: str
) -> None:
    folder = make_job(tmp_path / "job", rows=2, shape=layout(tp=2))
    failed_with_every_row(folder, message)
    for options in ([], ["--json"]):
        ran = run_cli("collect", folder.path, *options)
        reason = f"rank 1 on node-1: DivergedError: {message}{advice}"
        assert (ran.code, ran.err) == (1, f"Error: FAILED: {reason}; see: vllm-hpc logs {folder.path}\n")
        assert "2 of 2 rows" in ran.out or json.loads(ran.out)["reason"] == reason
    assert len(read_lines(folder.outputs)) == 2


@pytest.mark.parametrize(("cause", "code"), [("cancelled", 3), ("timeout", 3), ("exit", 1)])
def test_missing_rows_are_exit_code_3_unless_the_job_failed(
    tmp_path: Path, run_cli: Cli, cause: str, code: int
) -> None:
    folder = make_job(tmp_path / "job", rows=2)
    start(folder)
    write_lines(folder.shard(0, 1), [result(0)])
    end(folder, 143, cause)
    ran = run_cli("collect", folder.path)
    assert (ran.code, ran.err.startswith("Error: FAILED: ")) == (code, code == 1)


def test_rows_of_ranks_that_diverged_are_exit_code_1_even_if_some_are_missing(tmp_path: Path, run_cli: Cli) -> None:
    folder = make_job(tmp_path / "job", rows=3, shape=layout(tp=2))
    failed_with_every_row(folder, DIVERGED)
    assert run_cli("collect", folder.path).code == 1
