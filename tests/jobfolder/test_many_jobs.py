"""Jobs of several, compressed and piped inputs, from the command line to collect."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_job, result, write_lines
from tests.jobfolder.test_store_many import LIMIT, grow, lines, shards
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import iter_rows, read_index
from vllm_hpc.jobfolder.store_input import VARIABLE, Intake
from vllm_hpc.jobs.collect import collect
from vllm_hpc.spec.errors import CollectError

pytestmark = pytest.mark.inputs


def test_collect_reads_missing_rows_of_many_files(tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", rows=65)
    intake = Intake(shards(tmp_path / "in"), LIMIT)
    expected = list(intake.rows())
    intake.store(folder)
    folder.input.unlink()
    write_lines(folder.shard(0, 1), [result(n, id=expected[n]["id"]) for n in (0, 50)])
    assert collect(folder).rows == {"total": 65, "done": 2, "failed": 0, "missing": 63}
    out = [json.loads(line) for line in folder.outputs.read_text().splitlines()]
    assert [row["id"] for row in out if row.get("error")] == [
        row["id"] for row in expected if row["index"] not in (0, 50)
    ]
    grow(tmp_path / "in" / "c.jsonl")
    with pytest.raises(CollectError, match=r"c\.jsonl has \d+ bytes"):
        collect(folder)


@pytest.mark.parametrize("over", ["100", "1000000"])
def test_a_job_of_several_inputs(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    monkeypatch.setenv(VARIABLE, over)
    shards(desk / "in")
    (desk / "more.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "last"}\n'))
    given = ("--input", "in/*", "--input", "more.jsonl.gz")
    outcome = run_cli("submit", "model", *given, "--scheduler", "slurm", "--name", "many")
    assert outcome.code == 0, outcome.err
    assert "Note: 2 of 7 files have no row, the first: in/b.jsonl" in outcome.err
    job = JobFolder(desk / "runs" / "many")
    rows = list(iter_rows(job))
    assert (job.job().rows, len(rows), rows[65]) == (66, 66, {"index": 65, "id": "65", "prompt": "last"})
    assert job.job().request.input == ("in/*", "more.jsonl.gz")
    assert read_index(job).path == ("input.jsonl.zst" if over == "100" else "input.jsonl")


def test_a_job_of_standard_input(desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines(0, 9))))
    outcome = run_cli("submit", "model", "--input", "-", "--scheduler", "slurm", "--name", "piped")
    assert outcome.code == 0, outcome.err
    assert [row["id"] for row in iter_rows(JobFolder(desk / "runs" / "piped"))] == [f"row-{n}" for n in range(9)]


@pytest.mark.parametrize(
    "given", ['"in/*"', '["in/a.jsonl", "in/e.jsonl"]', '"in/[ae].jsonl"', '["in/*.jsonl", "in/d.txt"]']
)
def test_a_definition_names_inputs_beside_it(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    definition = desk / "job [1]"
    definition.mkdir()
    shards(definition / "in")
    (definition / "job.toml").write_text(f'model = "{desk}/model"\ninput = {given}\n')
    outcome = run_cli("submit", definition, "--scheduler", "slurm", "--name", "defined")
    assert outcome.code == 0, outcome.err
    prompts = [row["id"] for row in iter_rows(JobFolder(desk / "runs" / "defined"))]
    assert prompts[0] == "row-0"
    assert "row-64" in prompts


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_what_was_skipped_is_said(desk: Path, model: Path, run_cli: Cli, command: str) -> None:
    shards(desk / "in")
    (desk / "in" / "README.md").write_text("no rows")
    outcome = run_cli(command, "model", "--input", "in/*", "--scheduler", "slurm")
    assert outcome.code == 0
    said = outcome.out if command == "plan" else outcome.err
    assert "input 'in/*': 6 files read, 1 skipped ('README.md')" in said
    assert "2 of 6 files have no row" in said
