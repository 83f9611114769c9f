"""The answers of a job as rows and as tables: one row for each, beside the data that it was asked of."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.crafted import end, make_job, progress, result, start, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.job import Job
from vllm_hpc.jobs.submit import submit
from vllm_hpc.rows.row import Row, error_row
from vllm_hpc.spec.errors import InputError, RequestError

pytestmark = pytest.mark.notebooks
FAILED = error_row({"index": 1, "id": "b", "tag": 2}, "ValueError", "too long")
NAMES = ["a", "b", "c"]
CHAT = [{"role": "user", "content": "Hi"}]


def job_with(path: Path, out: list[Row], rows: list[Row] | None = None, is_over: bool = True) -> Job:
    """A job of three rows, of which these were written."""
    given = rows or [{"id": name, "prompt": f"p{name}", "tag": 1} for name in NAMES]
    folder = make_job(path / "job", given, "local" if is_over else "slurm")
    start(folder)
    write_lines(folder.shard(0, 1), out)
    if is_over:
        end(folder)
    return Job(folder.path)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """The second of its three rows has an error, the third two outputs."""
    two = [{"text": text, "finish_reason": "stop", "completion_tokens": 1} for text in ("x", "y")]
    several = result(2, id="c", outputs=two, tag=3)
    del several["text"], several["finish_reason"]
    return job_with(tmp_path, [result(0, id="a", tag=1), FAILED, several])


def test_pandas_has_a_row_for_each_answer(job: Job) -> None:
    pandas = pytest.importorskip("pandas")
    frame = job.dataframe()
    assert list(frame.columns) == [
        "index", "id", "output", "prompt", "text", "finish_reason", "prompt_tokens", "completion_tokens", "replica",
        "tag", "error_type", "error_message",
    ]  # fmt: skip
    assert list(frame["id"]) == ["a", "b", "c", "c"]
    assert list(frame["prompt"]) == ["pa", "pb", "pc", "pc"]
    assert frame["output"].to_list() == [pandas.NA, pandas.NA, 0, 1]
    assert frame["text"].isna().to_list() == [False, True, False, False]
    assert frame["completion_tokens"].to_list() == [3, pandas.NA, 1, 1]
    assert {str(frame[name].dtype) for name in ("prompt_tokens", "completion_tokens", "replica", "output")} == {"Int64"}
    assert (str(frame["index"].dtype), str(frame["tag"].dtype)) == ("int64", "int64")
    assert frame["error_type"].fillna("").to_list() == ["", "ValueError", "", ""]
    whole = job.dataframe(prompts=False, explode=False)
    assert "prompt" not in whole
    assert "output" not in whole
    assert [one["text"] for one in whole["outputs"][2]] == ["x", "y"]


def test_join_keeps_the_index_and_the_order(job: Job) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": NAMES, "tag": 0}, index=["k", "l", "m"])
    joined = job.join(frame)
    assert list(joined.index) == ["k", "l", "m", "m"]
    assert list(joined.columns[:4]) == ["id", "tag", "output", "text"]
    assert "replica" not in joined
    assert joined["text"].fillna("-").to_list() == ["an answer", "-", "x", "y"]
    assert list(job.join(frame, explode=False).index) == ["k", "l", "m"]
    other = frame.iloc[[2, 0]].assign(text="own")
    with pytest.warns(UserWarning, match="'text' as 'out_text'"):
        by_id = job.join(other, on="id")
    assert (list(by_id.index), list(by_id["text"])) == (["m", "m", "k"], ["own"] * 3)
    assert list(by_id["out_text"]) == ["x", "y", "an answer"]
    extra = pandas.DataFrame({"x": 1}, index=pandas.Index(["a", "zz"], name="id"))
    assert job.join(extra, on="id")["text"].fillna("-").to_list() == ["an answer", "-"]
    assert list(frame.columns) == ["id", "tag"], "the caller's own is as it was"


@pytest.mark.parametrize(
    ("columns", "on", "words"),
    [
        ({"id": ["a", "b"]}, None, r"^the table has 2 rows, but the job 3: join the one that was its input, or name"),
        ({"id": ["a", "a", "b"]}, "id", r"^the table has two rows with the id 'a'"),
        ({"id": ["x", "y"]}, "id", r"^no id of the table is one of the job's: it has 'x' \.\.\., and the job 'a'"),
        ({"key": ["a"]}, "id", r"^on='id': the table has no such column, only 'key'$"),
    ],
    ids=range(4),
)
@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_table_that_does_not_fit_is_refused(job: Job, columns: Any, on: Any, words: str, library: str) -> None:
    made = pytest.importorskip(library).DataFrame(columns)
    with pytest.raises(RequestError, match=words):
        job.join(made, on=on)


def test_only_a_table_is_joined(job: Job) -> None:
    with pytest.raises(RequestError, match=r"^join\(\) takes a DataFrame of pandas or polars, not list$"):
        job.join(["a"])


def test_numbers_are_ids_in_a_table_and_texts_in_a_csv(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows: list[Row] = [{"id": name, "prompt": "p"} for name in ("4", "5")]
    job = job_with(tmp_path, [result(0, "x", id="4"), result(1, "y", id="5")], rows)
    assert list(job.join(pandas.DataFrame({"k": [5.0, 4.0, None]}), on="k")["text"].fillna("-")) == ["y", "x", "-"]


def test_arrow_polars_and_datasets_have_the_same(job: Job) -> None:
    pytest.importorskip("pyarrow")
    table = job.to_arrow()
    rows = table.to_pylist()
    assert [row["text"] for row in rows] == ["an answer", None, "x", "y"]
    assert [row["output"] for row in rows] == [None, None, 0, 1]
    assert str(table.schema.field("error_type").type) == "string"
    polars = pytest.importorskip("polars")
    assert job.to_polars().to_dicts() == rows
    joined = job.join(polars.DataFrame({"key": ["c", "a"]}), on="key")
    assert joined["text"].to_list() == ["x", "y", "an answer"]


@pytest.mark.full
def test_a_dataset_is_made(job: Job) -> None:
    pytest.importorskip("datasets")
    assert job.to_dataset()["text"][:] == ["an answer", None, "x", "y"]


def test_values_of_several_forms_are_json_texts(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    meta: list[Any] = [{"a": 1}, "text", 2**70]
    out = [result(place, id=name, meta=meta[place], part=1.5 * place or 0) for place, name in enumerate(NAMES)]
    job = job_with(tmp_path, out, [{"id": name, "messages": CHAT} for name in NAMES])
    with pytest.warns(UserWarning, match="column 'meta' has values of several forms"):
        table = job.to_arrow()
    assert table["meta"].to_pylist() == ['{"a": 1}', '"text"', str(2**70)]
    assert table["part"].to_pylist() == [0.0, 1.5, 3.0]
    assert table["messages"].to_pylist() == [CHAT] * 3
    pandas = pytest.importorskip("pandas")
    frame = job.dataframe()
    assert frame["messages"][0] == CHAT
    assert frame["meta"].to_list() == meta
    assert isinstance(frame, pandas.DataFrame)
    polars = pytest.importorskip("polars")
    with pytest.warns(UserWarning, match="several forms"):
        assert job.to_polars()["messages"].dtype == polars.String, "no field of an object is lost"


def test_embeddings_are_lists(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    out: list[Row] = [
        {
            "index": place,
            "id": name,
            "embedding": [0.5, place],
            "prompt_tokens": 2,
            "completion_tokens": 0,
            "replica": 0,
        }
        for place, name in enumerate(NAMES)
    ]
    job = job_with(tmp_path, out)
    frame = job.dataframe()
    assert frame["embedding"].to_list() == [[0.5, 0], [0.5, 1], [0.5, 2]]
    assert "text" not in frame


def test_lines_of_a_batch_have_their_answer_in_columns(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    body = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 3}}
    line = {"id": "batch_req_1", "custom_id": "q1", "response": {"status_code": 200, "body": body}, "error": None}
    batch = {"custom_id": "q1", "url": "/v1/chat/completions", "model": "m"}
    rows: list[Row] = [{"id": f"q{n}", "messages": CHAT, "batch": {**batch, "custom_id": f"q{n}"}} for n in (1, 2)]
    written = {"index": 0, "id": "q1", "prompt_tokens": 3, "completion_tokens": 1, "replica": 0, "line": line}
    frame = job_with(tmp_path, [written], rows).dataframe()
    assert list(frame["id"]) == ["q1", "q2"]
    assert frame["text"].fillna("-").to_list() == ["hello", "-"]
    assert frame["error_type"].fillna("-").to_list() == ["-", "missing"]
    assert frame["messages"][1] == CHAT


@pytest.mark.usefixtures("desk")
def test_a_job_that_has_not_ended_is_asked_for_its_rows_so_far(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    job = job_with(tmp_path, [result(0, id="a")], is_over=False)
    progress(job.folder, 1)
    for ask in (job.results, job.dataframe, job.to_arrow, lambda: job.join(None)):
        with pytest.raises(RequestError, match=r"^job is \w+, with 1 of 3 rows: wait\(\) .*partial=True$"):
            ask()
    found = list(job.results(partial=True))
    assert [row.get("text") or row["error"]["type"] for row in found] == ["an answer", "missing", "missing"]
    assert job.dataframe(partial=True)["error_type"].fillna("-").to_list() == ["-", "missing", "missing"]
    write_lines(job.folder.shard(0, 1), [result(place, id=name) for place, name in enumerate(NAMES)])
    progress(job.folder, 3)
    assert len(list(job.results())) == 3, "with every row there is nothing to wait for"


def test_another_user_s_folder_is_left_as_it_is(job: Job, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    before = sorted(path.name for path in job.path.iterdir())
    monkeypatch.setattr(JobFolder, "is_mine", False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert len(job.dataframe()) == 4
    assert sorted(path.name for path in job.path.iterdir()) == before
    assert not list(tmp_path.glob("vllm-hpc-results-*")), "nor is anything left elsewhere"


def test_prompts_need_the_input_as_it_was(job: Job) -> None:
    pytest.importorskip("pandas")
    list(job.results())
    content = job.folder.input.read_bytes()
    job.folder.input.write_bytes(content.replace(b"pa", b"px"))
    with pytest.raises(InputError, match=r"changed since .*; or leave the prompts out with prompts=False$"):
        job.dataframe()
    assert len(job.dataframe(prompts=False)) == 4


@pytest.mark.parametrize(
    ("method", "library", "command"),
    [
        ("dataframe", "pandas", r"pip install 'vllm-hpc\[notebook\]'"),
        ("to_polars", "polars", "pip install polars"),
        ("to_arrow", "pyarrow", r"pip install 'vllm-hpc\[tables\]'"),
        ("to_dataset", "datasets", "pip install datasets"),
    ],
)
def test_a_missing_library_is_one_line(
    job: Job, monkeypatch: pytest.MonkeyPatch, method: str, library: str, command: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(RequestError, match=rf"^{method}\(\) needs {library}, which is not installed: {command}$"):
        getattr(job, method)()


@pytest.mark.full
@pytest.mark.ranks
def test_a_frame_goes_in_and_comes_back_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    importlib.import_module("torch") if importlib.util.find_spec("torch") else pytest.skip("needs torch")
    monkeypatch.chdir(tmp_path)
    frame = pandas.DataFrame({"question": ["p", "q"], "qid": ["x", "y"]}, index=[7, 9])
    job = submit(input=frame, prompt="question", id="qid", keep=[], rehearse=True, scheduler="local", name="first")
    del frame["qid"]
    assert job.wait(120).state == "COMPLETED", job.logs()
    record = job.folder.job()
    assert (record.request.input, record.rows) == ("<2 rows from memory: pandas DataFrame>", 2)
    joined = job.join(frame)
    assert list(joined.index) == [7, 9]
    assert joined["text"].notna().all()
    assert list(job.dataframe()["prompt"]) == ["p", "q"]


def test_a_text_and_a_number_are_two_ids_of_a_job_but_not_of_a_table(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    rows: list[Row] = [{"id": 1, "prompt": "p"}, {"id": "1", "prompt": "q"}]
    job = job_with(tmp_path, [result(0, id=1), result(1, id="1")], rows)
    with pytest.raises(RequestError, match=r"^the job has two rows with the id '1', a text and a number"):
        job.join(pandas.DataFrame({"k": [1]}), on="k")
