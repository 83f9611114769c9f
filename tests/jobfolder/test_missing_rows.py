"""--rows-missing-from: the rows without a result, and the options, of another job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests import crafted
from tests.conftest import Cli
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.missing_rows import MissingRows, with_job
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.schedulers.local import this_process
from vllm_hpc.spec.errors import InputError, JobNotFoundError, RequestError


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    """Three rows: one with a result, one with an error, one that never ran."""
    job = crafted.make_job(tmp_path / "runs" / "one")
    crafted.start(job, 1)
    crafted.write_lines(
        job.shard(0, 1), [crafted.result(1), {"index": 0, "id": "0", "error": {"type": "x", "message": "y"}}]
    )
    return job


def test_its_rows_are_those_without_a_result(job: JobFolder, tmp_path: Path) -> None:
    rows = list(MissingRows(job).rows())
    assert [(row["index"], row["id"]) for row in rows] == [(0, "0"), (1, "2")]
    new = JobFolder(tmp_path / "new")
    new.create()
    assert MissingRows(job).store(new) == 2
    assert list(MissingRows(job).rows()) == rows


def test_nothing_is_missing(job: JobFolder) -> None:
    crafted.write_lines(job.shard(0, 2), [crafted.result(0), crafted.result(2)])
    with pytest.raises(InputError, match="every row of it has a result"):
        list(MissingRows(job).rows())


def test_options_are_those_of_the_job_where_not_given(job: JobFolder) -> None:
    model, options, origins = with_job(None, {"rows_missing_from": str(job.path), "tp": None, "max_tokens": 7})
    assert model == job.job().request.model, "its folder is not here"
    assert (options["max_tokens"], options["rows_missing_from"]) == (7, str(job.path))
    assert origins["model"] == f"--rows-missing-from {job.path}"
    assert "max_tokens" not in origins
    assert with_job("m", {"tp": 1}) == ("m", {"tp": 1}, {})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"input": ["a.jsonl"]}, "--input and --rows-missing-from: the rows come as that job has them"),
        ({"prompt_template": "x"}, "--prompt-template and --rows-missing-from"),
    ],
)
def test_what_would_make_other_rows_is_refused(job: JobFolder, options: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        with_job(None, {"rows_missing_from": str(job.path), **options})


def test_variables_are_given_anew_name_by_name(job: JobFolder) -> None:
    record = job.job()
    request = msgspec.structs.replace(record.request, env={"C": "c", "D": "d"}, pass_env=["A", "B"])
    write_json(job.job_json, msgspec.structs.replace(record, request=request))
    _, options, _ = with_job(None, {"rows_missing_from": str(job.path), "env": {"A": "given", "C": None}})
    assert options["env"] == {"A": "given", "C": None, "D": "d"}
    assert options["pass_env"] == ["B"]


def test_it_is_found_by_its_name(job: JobFolder) -> None:
    given = {"rows_missing_from": "one", "job_dir": str(job.path.parent)}
    assert with_job(None, given)[1]["rows_missing_from"] == str(job.path)
    with pytest.raises(JobNotFoundError, match="no job 'two'"):
        with_job(None, {**given, "rows_missing_from": "two"})


def test_in_a_job_definition_it_is_a_folder_relative_to_that(job: JobFolder, desk: Path, run_cli: Cli) -> None:
    folder = desk / "again"
    folder.mkdir()
    definition = folder / "job.toml"
    definition.write_text(f"rehearse = true\nscheduler = 'local'\nrows_missing_from = '{job.path.name}'\n")
    ran = run_cli("submit", folder, "--job-dir", job.path.parent)
    said = (
        f"no job in '{folder / job.path.name}': in job.toml, rows_missing_from must be a job's folder, relative to it"
    )
    assert (ran.code, ran.err) == (2, f"Error: --rows-missing-from: {said}\n")
    job.path.rename(folder / job.path.name)
    assert run_cli("render", "again").code == 0


def test_it_says_how_many_rows_and_which_can_only_fail_again(job: JobFolder, desk: Path, run_cli: Cli) -> None:
    crafted.write_lines(
        job.input,
        [{"index": n, "id": str(n), "prompt": "p", "sampling": {"top_p": 5} if n == 2 else {}} for n in range(3)],
    )
    crafted.write_index(job)
    crafted.make_folder(desk / "model")
    words = ("./model", "--rehearse", "--scheduler", "slurm", "--rows-missing-from", job.path)
    ran = run_cli("submit", *words)
    assert ran.code == 0, ran.err
    fails = "1 row will become an error row: in 'sampling', 'top_p' must be "
    assert "Note: --rows-missing-from: 2 rows of one (1 not run, 1 with an error)\n" in ran.err
    assert f"Note: {fails}" in ran.err
    assert "(the first: index 2 of one)\n" in ran.err
    planned = run_cli("plan", *words)
    assert "2 rows of one (1 not run, 1 with an error)" in planned.out
    assert fails in planned.out


@pytest.mark.parametrize("runs", [True, False])
def test_it_says_if_the_other_job_has_not_ended(job: JobFolder, desk: Path, run_cli: Cli, runs: bool) -> None:
    write_json(job.supervisor, this_process("77-1000"))
    if not runs:
        crafted.end(job)
    crafted.make_folder(desk / "model")
    ran = run_cli("submit", "./model", "--rehearse", "--scheduler", "slurm", "--rows-missing-from", job.path)
    assert ran.code == 0, ran.err
    assert ("Note: one is RUNNING, so rows may be run twice\n" in ran.err) == runs


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"sampling": {"top_p": 5}}, "index 0 of one: in 'sampling', 'top_p' must be "),
        (
            {"error": {"type": "UnreadableRowError", "message": "a.csv:2: no"}},
            "index 0 of one: a.csv:2: no (no other row",
        ),
    ],
)
def test_rows_that_can_all_only_fail_again_are_refused(job: JobFolder, fields: dict[str, Any], said: str) -> None:
    crafted.write_lines(job.input, [{"index": n, "id": str(n), "prompt": "p", **fields} for n in range(3)])
    crafted.write_index(job)
    with pytest.raises(InputError) as refused:
        list(MissingRows(job).rows())
    assert said in str(refused.value)
    assert "(no other row can be run)" in str(refused.value)


def test_an_empty_value_takes_none_of_what_the_job_has(job: JobFolder) -> None:
    record = job.job()
    request = replace(record.request, env={"A": "1"}, pass_env=("HF_TOKEN",), account="a", directive=("--x=1",))
    write_json(job.job_json, replace(record, request=request))
    given = {"rows_missing_from": str(job.path)}
    assert with_job(None, given)[1]["account"] == "a"
    _, options, origins = with_job(None, {**given, "env": {}, "account": "", "directive": [""]})
    assert {key: options[key] for key in ("env", "pass_env", "account", "directive")} == dict.fromkeys(
        ("env", "pass_env", "account", "directive")
    )
    assert "pass_env" not in origins


@pytest.mark.parametrize("option", ["--env", "--engine", "--account", "--directive", "--launcher"])
def test_elsewhere_an_empty_value_is_refused(desk: Path, run_cli: Cli, option: str) -> None:
    assert run_cli("render", "--rehearse", "--scheduler", "slurm", option, "").code == 2


@pytest.mark.parametrize("option", ["--sampling", "--rehearse-set", "--rename", "--job-dir", "--name"])
def test_an_empty_value_of_another_option_is_refused(job: JobFolder, desk: Path, run_cli: Cli, option: str) -> None:
    crafted.make_folder(desk / "model")
    words = ("render", "./model", "--rehearse", "--scheduler", "slurm", "--rows-missing-from", job.path)
    assert run_cli(*words).code == 0
    assert run_cli(*words, option, "").code == 2


def test_none_of_it_and_some_is_refused(job: JobFolder, desk: Path, run_cli: Cli) -> None:
    ran = run_cli("render", "--env", "", "--env", "A=1", "--rows-missing-from", job.path)
    assert (ran.code, ran.err) == (2, "Error: --env '' means none of that job's: leave it out, or the others\n")
