"""clean: no row is ever lost, whatever is killed and whenever; and what is left serves as before."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.cli.named_jobs import named_job
from tests.conftest import Cli
from tests.crafted import end, make_folder, make_job, rank, read_lines, result, start, write_index, write_lines
from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobs.clean import clean
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.resume import rows_left
from vllm_hpc.spec.errors import CollectError, FailedError

pytestmark = pytest.mark.notebooks

TRACES = (
    "state/heartbeat-0.json", "state/claimed-0.1.jsonl", "state/crash-0.1.json", "state/suspects-0.json",
    "state/.reserve-0", "state/joined-1-0", "state/failed-1", "state/doctor-node-1-0.json", "state/claims/chunk-0",
    "ranks/77_0_result.pkl", "control/drain-1",
)  # fmt: skip
ORDER = ("order.json", "order.rows", "input.sorted.json", "input.sorted.jsonl", "input.sorted.jsonl.zst")
RECORDS = ("logs/rank-0.log", "ranks/rank-0.json", "state/env-0.json", "state/samples-0.1.jsonl")
THE_USERS = (
    "shards/notes.txt", "shards/replica-0.1.jsonl.bak", "state/heartbeat-x.json", "logs/mine.log", "ranks/a.pkl",
    "artefacts/replica-0.1.jsonl",
)  # fmt: skip


@pytest.fixture
def job(desk: Path) -> JobFolder:
    """A job of three rows that has COMPLETED, with all that ranks leave, and files of the user's own."""
    folder = named_job(desk / "runs" / "one")
    for name in (*TRACES, *ORDER, *RECORDS, *THE_USERS):
        (folder.path / name).parent.mkdir(exist_ok=True)
        (folder.path / name).write_text("{}")
    rank(folder, 0, "ok")
    return folder


def files(folder: JobFolder) -> set[str]:
    return {str(path.relative_to(folder.path)) for path in folder.path.rglob("*") if not path.is_dir()}


def texts(folder: JobFolder) -> list[str]:
    return [row["text"] for row in Job(folder.path).results()]


@pytest.mark.parametrize("keep", [[], ["--keep", "outputs"]])
def test_only_what_nobody_needs_is_removed(job: JobFolder, run_cli: Cli, keep: list[str]) -> None:
    before, summary = files(job), Job(job.path).collect()
    rows = job.outputs.read_bytes()
    dry = run_cli("clean", "one", "--dry-run", *keep)
    gone = {*TRACES, *ORDER, "shards/replica-0.1.jsonl", *(RECORDS if keep else [])}
    assert dry.out.startswith("one: would free ") and f" in {len(gone)} files\n" in dry.out
    assert before <= files(job)
    ran = run_cli("clean", "one", *keep)
    assert (ran.code, ran.out) == (0, dry.out.replace("would free", "freed"))
    assert before - files(job) == gone
    assert (
        files(job) - before
        == {"outputs.jsonl", "summary.json", "metrics.prom", "state/cleaned.json", "state/counted.json"} - before
    )
    assert run_cli("clean", "one", *keep).out == "one: nothing to remove\n"
    for _ in range(2):  # collect again changes nothing
        status = json.loads(run_cli("status", "one", "--json").out)
        assert (status["state"], status["rows"]) == ("COMPLETED", {"total": 3, "done": 3, "failed": 0})
        assert "3/3" in run_cli("list").out
        assert Job(job.path).collect() == summary
        assert run_cli("collect", "one").code == 0
        assert (job.outputs.read_bytes(), texts(job)) == (rows, ["an answer"] * 3)
        job.counted.unlink(missing_ok=True)


def test_what_was_not_collected_is_collected_first(job: JobFolder, run_cli: Cli) -> None:
    assert not job.outputs.exists()
    assert run_cli("clean", "one").code == 0
    assert [row["index"] for row in read_lines(job.outputs)] == [0, 1, 2]
    assert json.loads(job.summary.read_text())["completion_tokens"] == 9


EDITS: dict[str, Any] = {
    "cut": lambda content: content[:-10], "torn": lambda content: content[:-1], "empty": lambda content: b"",
    "shorter": lambda content: content[: content.index(b"\n") + 1], "longer": lambda content: content + content,
    "zeros": lambda content: bytes(len(content)),
    "other": lambda content: content.replace(b'"index": 1', b'"index": 7'),
    "error": lambda content: content.replace(b'"text"', b'"error"', 1),
}  # fmt: skip


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_outputs_that_are_not_whole_are_collected_again(job: JobFolder, edit: Any) -> None:
    Job(job.path).collect()
    whole = job.outputs.read_bytes()
    job.outputs.write_bytes(edit(whole))
    assert job.outputs.read_bytes() != whole
    clean(job)
    assert job.outputs.read_bytes() == whole


def test_a_job_that_runs_or_is_unknown_keeps_everything(desk: Path, run_cli: Cli, monkeypatch: Any) -> None:
    folder = make_job(desk / "runs" / "one", scheduler="slurm")
    write_lines(folder.shard(0, 1), [result(n) for n in range(3)])
    start(folder)
    before = files(folder)
    ran = run_cli("clean", "one")
    assert ran.code == 1 and "the job is UNKNOWN: clean it when it has ended" in ran.err
    assert files(folder) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_job_of_another_user_is_left_alone(job: JobFolder, run_cli: Cli) -> None:
    os.chown(job.job_json, 65534, 65534)
    before = files(job)
    ran = run_cli("clean", "one")
    assert ran.code == 1 and "is a job of another user" in ran.err
    assert run_cli("clean", "--older", "1m").code == 0
    assert files(job) == before


def test_a_full_disk_removes_nothing(job: JobFolder, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    Job(job.path).collect()
    before = files(job)

    def full(path: Path, record: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr("vllm_hpc.jobs.clean.write_json", full)
    ran = run_cli("clean", "one")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.endswith("cleaned.json: No space left on device\n")
    assert files(job) == before


def test_an_interrupt_at_any_file_loses_no_row(job: JobFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    keep, unlink = job.path.with_name("copy"), Path.unlink
    shutil.copytree(job.path, keep)
    for stop in range(len(TRACES) + 1):
        shutil.rmtree(job.path)
        shutil.copytree(keep, job.path)
        left = [stop]

        def interrupted(path: Path, missing_ok: bool = False, left: list[int] = left) -> None:
            if path.parent != job.path:  # not drafts of outputs.jsonl
                left[0] -= 1
                if left[0] < 0:
                    raise KeyboardInterrupt
            unlink(path, missing_ok)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", interrupted)
            with pytest.raises(KeyboardInterrupt):
                clean(job)
        assert (Job(job.path).status().state, texts(job)) == ("COMPLETED", ["an answer"] * 3)
        assert Job(job.path).collect().rows["done"] == 3
        clean(job)
        assert texts(job) == ["an answer"] * 3


def test_an_interrupted_clean_does_not_go_on_without_the_outputs(job: JobFolder) -> None:
    shard = job.shard(0, 1).read_bytes()
    clean(job)
    job.shard(0, 1).write_bytes(shard)
    job.outputs.write_bytes(job.outputs.read_bytes()[:50])
    with pytest.raises(FailedError, match="is all that is left, and is not whole: nothing was removed"):
        clean(job)
    assert job.shard(0, 1).read_bytes() == shard


def test_a_collect_that_began_before_does_not_replace_the_outputs(
    job: JobFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds no shards: without the record, every row would be missing."""
    Job(job.path).collect()
    whole, read = job.outputs.read_bytes(), read_cleaned
    looks: list[object] = []

    def cleaned_meanwhile(folder: JobFolder, rows: int) -> object:
        found = read(folder, rows)
        if not looks:
            looks.append(found)
            clean(job)
        return found

    monkeypatch.setattr("vllm_hpc.jobs.collect.read_cleaned", cleaned_meanwhile)
    with pytest.raises(CollectError, match=r"was cleaned meanwhile: its outputs\.jsonl stays as it is"):
        Job(job.path).collect()
    assert looks == [None]
    assert job.outputs.read_bytes() == whole
    assert sorted(path.name for path in job.path.iterdir() if path.name.startswith(".")) == []


def test_nothing_is_left_for_a_resume_nor_for_a_job_of_the_missing_rows(job: JobFolder, run_cli: Cli) -> None:
    make_folder(Path("model"))
    clean(job)
    assert (rows_left(job).missing, rows_left(job, retry_errors=True).failed) == (0, 0)
    ran = run_cli("submit", "model", "--rows-missing-from", "runs/one", "--name", "two", "--scheduler", "slurm")
    assert ran.code == 2 and "every row of it has a result" in ran.err


def test_outputs_that_are_removed_later_are_not_made_up(job: JobFolder, run_cli: Cli) -> None:
    clean(job)
    job.outputs.unlink()
    ran = run_cli("collect", "one")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("Error: one was cleaned, and its outputs.jsonl is gone: restore it")
    assert not job.outputs.exists()
    with pytest.raises(CollectError):
        list(Job(job.path).results())
    assert run_cli("show", "one").code == 1


def test_the_outputs_can_still_go_elsewhere(job: JobFolder, desk: Path, run_cli: Cli) -> None:
    clean(job)
    assert run_cli("collect", "one", "--output", "copy").code == 0
    assert (desk / "copy" / "outputs.jsonl").read_bytes() == job.outputs.read_bytes()
    assert json.loads((desk / "copy" / "summary.json").read_text())["outputs"] == str(desk / "copy" / "outputs.jsonl")


def test_the_record_of_another_job_is_not_believed(job: JobFolder, desk: Path) -> None:
    clean(job)
    other = named_job(desk / "runs" / "two", [result(0)])
    shutil.copy(job.cleaned, other.cleaned)
    assert read_cleaned(other, 3) is None
    assert Job(other.path).status().rows.done == 1
    record = read_cleaned(job, 3)
    assert record is not None
    write_json(other.cleaned, msgspec.structs.replace(record, uuid="two", rows=4))
    assert Job(other.path).status().rows.done == 1


def test_links_are_not_followed(job: JobFolder, desk: Path) -> None:
    outside = desk / "outside"
    shutil.move(job.shards, outside)
    job.shards.symlink_to(outside)
    with pytest.raises((CollectError, FailedError)):
        clean(job)
    assert (outside / "replica-0.1.jsonl").exists()


def test_lines_of_an_openai_batch_are_whole_too(desk: Path) -> None:
    folder = named_job(desk / "runs" / "batch", [])
    given = [{"index": n, "id": f"c-{n}", "prompt": "p", "batch": {"custom_id": f"c-{n}"}} for n in range(3)]
    write_lines(folder.input, given)
    write_index(folder)
    out: list[dict[str, Any]] = [
        {"id": f"b{n}", "custom_id": f"c-{n}", "response": {"body": {}}, "error": None} for n in range(3)
    ]
    write_lines(folder.shard(0, 1), [{"index": n, "id": f"c-{n}", "line": row} for n, row in enumerate(out)])
    clean(folder)
    assert not folder.shard(0, 1).exists()
    assert read_lines(folder.outputs) == out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "clean needs JOB, or --older AGE for all under --job-dir that ended longer ago: --older 30d"),
        (["--dry-run"], "clean needs JOB"),
        (["--older", "30"], "--older must be a number and m, h, d or w, such as 30d, not '30'"),
        (["--older", "-1d"], "--older must be"), (["--older", "1e3d"], "--older must be"),
        (["--older", ""], "--older must be"), (["--older", "٣d"], "--older must be"),
        (["--keep", "logs", "one"], "Invalid value for '--keep'"), (["none"], "no job 'none'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_before_anything_goes(
    job: JobFolder, run_cli: Cli, words: list[str], said: str
) -> None:
    before = files(job)
    ran = run_cli("clean", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1)
    assert said in ran.err
    assert files(job) == before


def test_all_that_are_older_are_cleaned_and_the_others_said(job: JobFolder, desk: Path, run_cli: Cli) -> None:
    start(make_job(desk / "runs" / "half", scheduler="slurm"))
    new = named_job(desk / "runs" / "new")
    end(new, exit_code=0)
    exit_record = json.loads(new.exit_record(1).read_text())
    new.exit_record(1).write_text(json.dumps({**exit_record, "ended_at": 4e9}))
    ran = run_cli("clean", "--older", "30d")
    assert ran.code == 0
    assert ran.out.startswith("one: freed ") and "new" not in ran.out
    assert ran.err == "Kept 1 job: the job is UNKNOWN\n"
    assert new.shard(0, 1).exists() and not job.shard(0, 1).exists()
    found = {Path(one["job"]).name: one for one in json.loads(run_cli("clean", "--older", "30d", "--json").out)}
    assert (found["new"]["kept"], found["one"]["files"], found["half"]["bytes"]) == ("not that old", 0, 0)


def test_a_stream_has_all_rows_before_meanwhile_and_after(job: JobFolder) -> None:
    rows = list(Job(job.path).results())
    begun = Job(job.path).stream()
    first = next(begun)
    clean(job)
    assert [first, *begun] == rows
    assert list(Job(job.path).stream()) == rows


def test_a_stream_of_outputs_that_were_edited_is_one_line(job: JobFolder) -> None:
    clean(job)
    job.outputs.write_text("{")
    with pytest.raises(CollectError, match=r"^.*outputs\.jsonl was changed after its job was cleaned: restore it$"):
        list(Job(job.path).stream())
    job.outputs.unlink()
    with pytest.raises(CollectError, match=r"^cannot read .*outputs\.jsonl: No such file or directory$"):
        list(Job(job.path).stream())
