"""Jobs whose rows run in the order by prefix: results in the input's order, resumed with the stored order."""

from __future__ import annotations

import errno
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from tests.conftest import Cli
from tests.real_jobs import GREEDY, PATIENCE_S, rehearsed_texts, started, submit_tiny, write_input
from vllm_hpc import Job, prepare
from vllm_hpc.engine.loop.chunk_claims import Lease, LeaseClaims
from vllm_hpc.engine.loop.suspect_rows import Prior
from vllm_hpc.jobfolder.chunks import OrderedChunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Claimed, Crash
from vllm_hpc.jobfolder.row_order import read_order
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout

pytestmark = pytest.mark.throughput


def documents(count: int = 20, questions: int = 6) -> list[Row]:
    rows: list[Row] = [
        {"id": f"{of}-{number}", "prompt": f"{of:03} " * 100 + f"{number}?", "of": of}
        for of in range(count)
        for number in range(questions)
    ]
    random.Random(1).shuffle(rows)
    return rows


def shard_rows(job: JobFolder) -> list[list[int]]:
    """The row numbers of each shard, as they were written."""
    return [[row["index"] for row in crafted.read_lines(file)] for file in sorted(job.shards.glob("*.jsonl"))]


@pytest.mark.full
@pytest.mark.ranks
def test_a_resumed_job_goes_on_in_the_stored_order(tmp_path: Path) -> None:
    rows = documents()
    job = submit_tiny(None, tmp_path, rows, order="prefix", nodes=1, gpus_per_node=2, rehearse={"tokens_per_s": 400})
    started(job)
    job.cancel()
    job.wait(PATIENCE_S)
    order = job.folder.order_rows.read_bytes()
    record = job.folder.job()
    assert record.plan.order == "prefix" and 0 < job.status().rows.done < len(rows)
    write_json(job.folder.job_json, _faster(record))
    job.resume()
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
    found = list(job.results())
    assert [row["index"] for row in found] == list(range(len(rows)))
    assert [row["id"] for row in found] == [row["id"] for row in rows]
    assert [row["text"] for row in found] == rehearsed_texts(rows, int(GREEDY["max_tokens"]))
    assert job.folder.order_rows.read_bytes() == order
    for shard in shard_rows(job.folder):
        of = [rows[index]["of"] for index in shard]
        assert sum(one != after for one, after in pairwise(of)) <= 2 * len(set(of)), of


@pytest.mark.full
@pytest.mark.vllm
def test_greedy_texts_are_those_of_the_other_order(tiny: Path, tmp_path: Path) -> None:
    """In float32, where a beginning that was computed before and one that was not give the same numbers."""
    rows = [{**row, "prompt": row["prompt"][-150:]} for row in documents(8, 4)]
    texts = {}
    for order in ("prefix", "input"):
        (tmp_path / order).mkdir()
        job = submit_tiny(tiny, tmp_path / order, rows, order=order)
        assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
        assert job.folder.job().plan.order == order
        texts[order] = [row["text"] for row in job.results()]
    assert texts["prefix"] == texts["input"]


def _faster(record: Any) -> Any:
    request = msgspec.structs.replace(record.request, rehearse_set=type(record.request.rehearse_set)())
    return msgspec.structs.replace(record, request=request)


def ordered(path: Path, shape: Layout | None = None) -> tuple[JobFolder, OrderedChunks]:
    job = crafted.make_job(path, documents(), shape=shape)
    crafted.put_in_order(job)
    return job, OrderedChunks(*read_order(job, 120))


def test_the_leases_of_a_task_that_died_are_taken_by_others(tmp_path: Path) -> None:
    """Tasks 0 and 1 of three; the second dies with rows of its chunk done, and all rows run once."""
    job, chunks = ordered(tmp_path / "job", Layout(1, 1, 1, 1, 1, 3, is_array=True))
    record = job.job()
    dead = LeaseClaims(job, chunks, Lease(1, 1, 0), 3, Prior(job, record))
    first = dead.take()
    assert first is not None
    rows = chunks.rows(first)
    crafted.start(job, 1, 1)
    crafted.write_lines(job.shard(1, 1), [crafted.result(rows[0])])
    crafted.end(job, 137, "signal 9", 1)
    claims = LeaseClaims(job, chunks, Lease(2, 0, 0), 3, Prior(job, record))
    taken: list[int] = []
    while (chunk := claims.take()) is not None:
        taken.append(chunk)
    assert sorted(taken) == sorted(set(range(chunks.count)) - {first}) or sorted(taken) == list(range(chunks.count))
    mine = list(chunks.part(0, 3))
    assert taken[: len(mine)] == mine, "its own part comes first, long outputs before short ones"


def test_rows_that_were_in_flight_in_a_crash_are_found_by_the_order(tmp_path: Path) -> None:
    job, chunks = ordered(tmp_path / "job")
    lines = [Claimed(chunk=number) for number in (2, 0, chunks.count, -1)]  # no such chunks: a damaged record
    job.claimed(0, 1).write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    begun = [*chunks.rows(2), *chunks.rows(0)]
    crafted.write_lines(job.shard(0, 1), [crafted.result(begun[0])], torn='{"index": 3')
    write_json(job.crash(0, 1), Crash(0, "RuntimeError", "illegal address"))
    crafted.start(job)
    crafted.end(job, 1)
    prior = Prior(job, job.job())
    assert sum(prior.rows) == prior.rows[begun[0]] == 1, "a torn line is no row"
    trial = prior.judge(job, 0, [1], chunks, 40)
    assert sorted(row for group in trial.groups for row in group) == sorted(begun[1:])


@pytest.fixture
def ended(tmp_path: Path) -> JobFolder:
    """All but two rows done, one of these with an error; in the order in which they ran."""
    job, chunks = ordered(tmp_path / "runs" / "job")
    crafted.start(job)
    crafted.end(job, 1)
    run = [row for chunk in range(chunks.count) for row in chunks.rows(chunk)]
    lines = [crafted.result(row, f"answer {row}") for row in run if row not in (7, 40)]
    lines.append({"index": 40, "id": "x", "error": {"type": "X", "message": "no"}})
    crafted.write_lines(job.shard(0, 1), lines)
    return job


def test_results_come_in_the_order_of_the_input(ended: JobFolder) -> None:
    Job(ended.path).collect()
    found = crafted.read_lines(ended.outputs)
    assert [row["index"] for row in found] == list(range(120))
    assert [row["index"] for row in found if "error" in row] == [7, 40]
    assert all(row["text"] == f"answer {row['index']}" for row in found if "error" not in row)


@pytest.mark.usefixtures("model")
def test_rows_that_are_missing_get_an_order_of_their_own(ended: JobFolder, tmp_path: Path) -> None:
    found = prepare(
        rows_missing_from=str(ended.path),
        rehearse=True,
        scheduler="local",
        job_dir=str(tmp_path / "new"),
        temperature=0,
    )
    assert sum(1 for _ in found.intake.rows()) == 2
    assert found.intake.beginnings is not None and found.intake.beginnings.rows == 2


def test_a_job_of_an_earlier_version_has_the_order_of_its_input(tmp_path: Path) -> None:
    job = crafted.make_job(tmp_path / "job", 3)
    record = json.loads(job.job_json.read_text())
    del record["plan"]["order"]
    job.job_json.write_text(json.dumps(record))
    assert job.job().plan.order == "input"


@pytest.mark.parametrize("change", ["another row", "fewer rows"])
def test_an_input_that_changes_after_the_plan_keeps_its_order(tmp_path: Path, change: str, run_cli: Cli) -> None:
    rows = documents()
    source = write_input(tmp_path / "rows.jsonl", rows)
    found = prepare(
        input=str(source), rehearse=True, scheduler="slurm", nodes=1, gpus_per_node=1, job_dir=str(tmp_path / "runs"),
        order="prefix", temperature=0,
    )  # fmt: skip
    assert found.plan.order == "prefix"
    write_input(source, [*rows, {"prompt": "b"}] if change == "another row" else rows[:-5])
    job = found.submit()
    record = job.folder.job()
    assert record.plan.order == "input" and "has changed since it was planned" in record.plan.reasons[-1]
    assert not job.folder.order.exists() and record.rows == len(rows) + (1 if change == "another row" else -5)


@pytest.mark.parametrize("asked", [True, False])
def test_a_quota_that_leaves_no_room_for_another_order(
    tmp_path: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, asked: bool
) -> None:
    """Whoever asked for it is refused; another job runs in the input's order."""
    from vllm_hpc.jobs import new_folder
    from vllm_hpc.planner import row_order

    def full(*_: Any) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(row_order, "_ASSUMED_ROOM", 100)

    source = write_input(tmp_path / "rows.jsonl", documents())
    monkeypatch.setattr(new_folder, "write_sorted", full)
    outcome = run_cli(
        "submit", "--rehearse", "--input", source, "--scheduler", "slurm", "--nodes", "1", "--gpus-per-node", "1",
        *(("--order", "prefix") if asked else ("--temperature", "0")), "--job-dir", tmp_path / "runs",
    )  # fmt: skip
    folders = [JobFolder(path) for path in (tmp_path / "runs").glob("*")]
    if asked:
        assert outcome.code == 2 and "quota exceeded: make room, or use --order input" in outcome.err
        assert not folders
        return
    assert outcome.code == 0, outcome.err
    (folder,) = folders
    plan = folder.job().plan
    assert (plan.order, plan.reasons[-1].partition(": ")[2][:26]) == ("input", "no other could be stored: ")
    assert not [one for one in plan.reasons if one.startswith("order prefix")]
    assert not (folder.order.exists() or folder.order_rows.exists())


def test_the_folder_of_a_submitted_job_has_the_order(tmp_path: Path, run_cli: Cli) -> None:
    source = write_input(tmp_path / "rows.jsonl", documents())
    outcome = run_cli(
        "submit", "--rehearse", "--input", source, "--scheduler", "slurm", "--nodes", "1", "--gpus-per-node", "2",
        "--order", "prefix", "--job-dir", tmp_path / "runs", "--name", "job",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    job = Job(tmp_path / "runs" / "job").folder
    record = job.job()
    order, rows = read_order(job, record.rows)
    assert record.plan.order == "prefix" and sorted(rows) == list(range(120)) and len(order.starts) > 10
    assert read_json(job.sorted_json, dict) is not None and job.sorted.stat().st_size == job.input.stat().st_size
