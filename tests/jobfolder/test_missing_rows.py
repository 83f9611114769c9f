"""--rows-missing-from: the rows without a result, and the options, of another job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import crafted
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.missing_rows import MissingRows, with_job
from vllm_hpc.jobfolder.record_files import write_json
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
