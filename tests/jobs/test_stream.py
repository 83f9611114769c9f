"""Rows as they finish: once each, over torn lines, attempts and kernels; those with errors at the end."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import make_job, read_lines, result, start, write_lines
from vllm_hpc import Job
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.progress import Rows
from vllm_hpc.jobs.status import Status
from vllm_hpc.jobs.task_states import State
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import CollectError, JobFailedError, RequestError

pytestmark = pytest.mark.notebooks

Step = Callable[[], Any]


def status(folder: JobFolder, state: State, total: int = 3) -> Status:
    return Status(job=str(folder.path), job_id="1", scheduler="local", state=state, reason="why", rows=Rows(total))


def unfold(monkeypatch: pytest.MonkeyPatch, folder: JobFolder, *steps: Step, end: State = "COMPLETED") -> Job:
    """A job that takes these steps, one before each look; with the last one it has ended."""

    def statuses(self: Job, ask_every_s: float = 0.0) -> Iterator[tuple[Status, float]]:
        for number, step in enumerate(steps):
            step()
            yield status(folder, end if number == len(steps) - 1 else "RUNNING"), 0.0

    monkeypatch.setattr(Job, "statuses", statuses)
    return Job(folder.path)


def append(path: Path, *rows: Row, torn: str = "") -> Step:
    text = "".join(json.dumps(row) + "\n" for row in rows) + torn

    def write() -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)

    return write


def failed(index: int) -> Row:
    return {"index": index, "id": str(index), "error": {"type": "ValueError", "message": "no"}}


@pytest.fixture
def folder(tmp_path: Path) -> JobFolder:
    made = make_job(tmp_path / "job", 3)
    start(made)
    return made


def nothing() -> None:
    pass


def test_each_row_comes_once_when_it_has_finished(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = folder.shard(0, 1)
    line = json.dumps(result(2, "torn"))
    steps = [
        append(shard, result(1), torn=line[:20]), nothing, append(shard, torn=line[20:] + "\n"),
        append(folder.shard(1, 1), result(1, "again"), result(0)),
    ]  # fmt: skip
    looks = 0

    def seen(step: Step) -> Step:
        def take() -> None:
            nonlocal looks
            looks += 1
            step()

        return take

    job = unfold(monkeypatch, folder, *map(seen, steps))
    found = [(row["index"], row["text"], looks) for row in job.stream()]
    assert found == [(1, "an answer", 1), (2, "torn", 3), (0, "an answer", 4)]


def test_an_error_waits_for_the_end_and_gives_way_to_a_result(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = folder.shard(0, 1), folder.shard(0, 2)
    job = unfold(monkeypatch, folder, append(first, failed(0), failed(1)), append(second, result(2), result(1)))
    found = list(job.stream())
    assert [(row["index"], "error" in row) for row in found] == [(2, False), (1, False), (0, True)]
    assert found[-1] == failed(0)


def test_rows_are_those_of_results(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [result(2), result(0, "é\u2028", extra={"a": [1]}), failed(1)]
    job = unfold(monkeypatch, folder, append(folder.shard(0, 1), *rows))
    streamed = {row["index"]: row for row in job.stream()}
    job.collect()
    assert [streamed[index] for index in range(3)] == read_lines(folder.outputs)


def test_lines_of_an_openai_batch_come_as_collect_writes_them(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = {"id": "batch_req_0", "custom_id": "a", "response": {"status_code": 200, "body": {}}, "error": None}
    wrapped = {"index": 0, "id": "0", "replica": 0, "prompt_tokens": 1, "completion_tokens": 1, "line": line}
    own = [result(1, line={"number": 7}), {**failed(2), "line": 42}]
    job = unfold(monkeypatch, folder, append(folder.shard(0, 1), wrapped, *own))
    assert list(job.stream()) == [line, *own]
    job.collect()
    assert read_lines(folder.outputs) == [line, *own], "a field of the user's own stays one"


def test_what_no_rank_wrote_is_passed_over(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = folder.shard(0, 1)
    shard.write_bytes(
        b"\0\0\0\n\xff\n[]\n{}\nnull\n" + json.dumps({"index": "0"}).encode() + b"\n" + b"[" * 9999 + b"\n"
    )
    strange = [result(3), result(-1), result(1 << 70), result(True), result(0, rehearsal=True)]
    write_lines(folder.shard(1, 1), strange)
    job = unfold(monkeypatch, folder, append(shard, result(1)))
    assert [row["index"] for row in job.stream()] == [1]


def test_a_line_that_a_file_system_showed_as_zeros_comes_at_the_end(
    folder: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard, line = folder.shard(0, 1), json.dumps(result(0)).encode()

    def hole() -> None:
        shard.write_bytes(b"\0" * len(line) + b"\n" + json.dumps(result(1)).encode() + b"\n")

    def filled() -> None:
        with shard.open("r+b") as file:
            file.write(line)

    assert [row["index"] for row in unfold(monkeypatch, folder, hole, filled).stream()] == [1, 0]


def test_a_shard_that_shrinks_or_vanishes(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = folder.shard(0, 1)
    steps = [append(shard, result(0), result(1)), lambda: write_lines(shard, [result(1)]), shard.unlink]
    assert [row["index"] for row in unfold(monkeypatch, folder, *steps, end="PARTIAL").stream()] == [0, 1]


def test_a_shard_that_is_no_file_is_named(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder.shard(0, 1))
    with pytest.raises(CollectError, match=r"^cannot read .*replica-0\.1\.jsonl: it must be a regular file$"):
        list(unfold(monkeypatch, folder, nothing).stream())


def test_two_streams_do_not_know_of_each_other(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    job = unfold(monkeypatch, folder, append(folder.shard(0, 1), result(0)))
    one, two = job.stream(), job.stream()
    assert (next(one)["index"], next(two)["index"]) == (0, 0)


def test_a_loop_that_is_left_goes_on_where_it_was(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unfold(monkeypatch, folder, append(folder.shard(0, 1), result(2), result(0), result(1))).stream()
    assert next(rows)["index"] == 2
    assert [row["index"] for row in rows] == [0, 1]


def test_async_for_gives_the_same(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = folder.shard(0, 1)
    job = unfold(monkeypatch, folder, append(shard, failed(0), result(2)), append(shard, result(1)))

    async def collect() -> list[int]:
        return [row["index"] async for row in job]

    assert asyncio.run(collect()) == [2, 1, 0]


def test_it_ends_in_an_error_where_results_would(folder: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(JobFailedError, match=r"^job failed: why$"):
        list(unfold(monkeypatch, folder, nothing, end="FAILED").stream())
    rows = unfold(monkeypatch, folder, append(folder.shard(0, 1), result(0)), end="FAILED").stream()
    assert [row["index"] for row in rows] == [0]
    with pytest.raises(TimeoutError, match=r"^job is still RUNNING after 0 s$"):
        list(unfold(monkeypatch, folder, nothing, nothing).stream(timeout=0))


def test_a_job_that_runs_no_rows_is_refused_at_once(folder: JobFolder) -> None:
    record = json.loads(folder.job_json.read_text())
    record["program"] = {"kind": "script", "name": "a.py", "source": "a.py", "drives_engine": True}
    folder.job_json.write_text(json.dumps(record))
    with pytest.raises(RequestError, match=r"^job runs no rows: see its artefacts\(\) and logs\(rank\)$"):
        Job(folder.path).stream()
