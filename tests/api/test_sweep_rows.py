"""A sweep as one job: its rows are those of the input, once for each point, with the point's sampling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import crafted
from tests.api.test_sweep import rehearse
from tests.real_jobs import write_input
from vllm_hpc import Job, RefusedError, RequestError, Sweep
from vllm_hpc.api import sweep_rows
from vllm_hpc.api.cards import card
from vllm_hpc.jobs import submit as submission
from vllm_hpc.schedulers.scheduler import JobState

pytestmark = [pytest.mark.notebooks, pytest.mark.timeout(120)]

Rows = list[dict[str, Any]]


@pytest.fixture
def sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """The rows of the jobs that would have been submitted."""
    monkeypatch.chdir(tmp_path)
    found: list[Rows] = []

    def submit(prepared: submission.Prepared, from_here: bool = False) -> Job:
        found.append(list(prepared.intake.rows()))
        crafted.make_job(Path(prepared.folder), len(found[-1]))
        return Job(prepared.folder)

    monkeypatch.setattr(submission.Prepared, "submit", submit)
    return found


def test_each_row_is_there_once_for_each_point(sent: list[Rows]) -> None:
    given = [{"id": "a", "prompt": "x", "topic": 5}, {"id": "b", "prompt": "y", "sampling": {"top_k": 3, "seed": None}}]
    found = rehearse(given, name="s", max_tokens=[4, 8], over={"sampling.top_k": [1, 2]}, tp=[1])
    assert len(found) == 4 and found.is_one_job
    (rows,) = sent
    assert [row["index"] for row in rows] == list(range(8))
    assert [row["id"] for row in rows] == [f"{name}@{point}" for name in "ab" for point in (1, 2, 3, 4)]
    assert rows[2] == {
        "index": 2, "id": "a@3", "prompt": "x", "topic": 5, "sampling": {"max_tokens": 8, "top_k": 1},
        "sweep": {"max_tokens": 8, "tp": 1, "sampling.top_k": 1, "point": 3, "id": "a"},
    }  # fmt: skip
    assert [row["sampling"] for row in rows[6:]] == [{"max_tokens": 8, "top_k": 3}] * 2, "a row's own sampling wins"


def generated() -> Iterator[dict[str, str]]:
    yield {"q": "x", "name": "a", "other": "1"}
    yield {"q": "y", "name": "b", "other": "2"}


@pytest.mark.parametrize("kind", ["file", "list", "generator", "reader"])
def test_the_input_may_be_anything(sent: list[Rows], kind: str) -> None:
    given: Any = list(generated())
    if kind == "file":
        given = write_input(Path("rows.jsonl"), given)
    elif kind == "generator":
        given = generated()
    elif kind == "reader":
        pa = pytest.importorskip("pyarrow")
        table = pa.Table.from_pylist(given)
        given = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    rehearse(given, prompt="q", id="name", keep=["other"], temperature=[0.0, 1.0])
    (rows,) = sent
    assert [(row["id"], row["prompt"], row["other"]) for row in rows] == [
        ("a@1", "x", "1"), ("a@2", "x", "1"), ("b@1", "y", "2"), ("b@2", "y", "2"),
    ]  # fmt: skip


def test_a_reader_of_arrow_is_read_once_for_all_jobs(sent: list[Rows]) -> None:
    pa = pytest.importorskip("pyarrow")
    table = pa.table({"a": ["x"], "b": ["y"]})
    reader = pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    rehearse(reader, over={"prompt": ["a", "b"]})
    assert [[row["prompt"] for row in rows] for rows in sent] == [["x"], ["y"]]


def test_a_template_and_a_dropped_answer_are_applied_once(sent: list[Rows]) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rehearse([{"messages": turns}], drop_last_answer=True, top_p=[0.5, 1.0])
    rehearse([{"text": "{{ x }}", "prompt": "p"}], prompt="<{{ text }}>", top_p=[0.5, 1.0], name="t")
    chats, texts = sent
    assert [(row["messages"], row["reference"]) for row in chats] == [(turns[:1], "a")] * 2
    assert [(row["prompt"], row["in_text"], row["in_prompt"]) for row in texts] == [("<{{ x }}>", "{{ x }}", "p")] * 2


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_tokens": [4]}, "there is only one combination"),
        ({"tp": [1, 2], "max_tokens": [4, 8]}, "tp is no parameter of sampling"),
        ({"seed": [1, 2]}, "seed is no parameter of sampling, that of the engine; over={'sampling.seed'"),
        ({"over": {"engine.max_num_seqs": [4, 8]}}, "engine.max_num_seqs is no parameter of sampling"),
        ({"over": {"sampling.top_k": [None, 8]}}, "sampling.top_k has None"),
        (
            {"over": {"sampling.max_completion_tokens": [4, 8]}, "max_tokens": None},
            "sampling.max_completion_tokens is",
        ),
        ({"top_p": [0.5, 1], "sampling": {"top_logprobs": 2}}, "sampling= has a name of OpenAI's"),
        ({"top_p": [0.5, 1], "seed_rows": True}, "seed_rows= makes seeds of ids"),
        ({"top_p": [0.5, 1], "engine": {"runner": "pooling"}}, "embeddings have no sampling"),
        ({"top_p": [0.5, 1], "input": None}, "input= is missing"),
        ({"top_p": [0.5, 1], "input": [{"prompt": "x", "sweep": 5}]}, "the rows have a field 'sweep'"),
        ({"top_p": [0.5, 1], "input": [{"prompt": "x", "id": 7}, {"prompt": "x"}]}, "some ids are numbers, others"),
        ({"top_p": [0.5, 1], "input": [{"prompt": "x", "task": "embed"}]}, "embeddings have no sampling"),
        ({"top_p": [0.5, 1], "input": "batch.jsonl"}, "the input is an OpenAI batch"),
    ],
)
def test_what_one_job_cannot_serve_says_why(sent: list[Rows], options: dict[str, Any], why: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]}
    write_input(Path("batch.jsonl"), [{"custom_id": "a", "url": "/v1/chat/completions", "body": body}])
    given = {"source": ["x"], **options}
    if "input" in given:
        given["source"] = given.pop("input")
    with pytest.raises(RequestError) as caught:
        rehearse(**given, one_job=True)
    assert str(caught.value).startswith(f"one_job=True is not possible: {why}")
    assert not sent and not Path("runs").exists()


def test_without_asking_such_a_sweep_has_a_job_for_each(sent: list[Rows]) -> None:
    found = rehearse([{"prompt": "x", "sweep": 5}], top_p=[0.5, 1])
    assert len(found.jobs) == len(sent) == 2
    assert sent[0][0]["sweep"] == 5


def test_a_large_input_is_not_repeated_unasked(sent: list[Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep_rows, "_MOST_BYTES", 100)
    given = [{"prompt": "x" * 80}]
    assert not rehearse(given, top_p=[0.5, 1], name="s").is_one_job
    assert rehearse(given, top_p=[0.5, 1], one_job=True, name="t").is_one_job


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"over": {"temperature": [0.5, -3]}}, "point 2 (temperature=-3): temperature=-3"),
        ({"over": {"sampling.top_p": [0.5, 7]}}, "point 2 (sampling.top_p=7): "),
        ({"over": {"sampling.temperature": [0, 1]}, "temperature": 1}, "point 1 (sampling.temperature=0): "),
        ({"top_p": [0.5, 1], "source": "nothing.jsonl"}, "no such input: 'nothing.jsonl'"),
        ({"top_p": [0.5, 1], "source": [{"text": "x"}]}, "input[0]: "),
        ({"top_p": [0.5, 1], "source": [{"prompt": "x", "id": 1}] * 2}, "input[1]: id 1 was given before"),
    ],
)
def test_what_is_wrong_is_said_of_the_input_or_the_point(sent: list[Rows], options: dict[str, Any], words: str) -> None:
    with pytest.raises(RefusedError) as caught:
        rehearse(**{"source": ["x"], **options})
    assert str(caught.value).startswith(words) and str(caught.value).endswith("nothing was submitted")
    assert not sent and not Path("runs").exists()


def test_a_row_that_cannot_be_run_stays_an_error_row(sent: list[Rows]) -> None:
    Path("rows.jsonl").write_text('{"prompt": "\\ud800"}\n{"prompt": "x"}\n')
    rehearse("rows.jsonl", top_p=[0.5, 1])
    (rows,) = sent
    assert [("error" in row, "sampling" in row) for row in rows] == [(True, False)] * 2 + [(False, True)] * 2
    assert rows[0]["error"]["message"].startswith("rows.jsonl:1: ")


def test_views_are_those_of_jobs_of_their_own() -> None:
    rows = [
        {"index": 0, "id": "a@1", "sweep": {"id": "a"}}, {"index": 1, "id": "a@2", "sweep": {"id": "a"}},
        {"index": 2, "id": "1@1", "sweep": {"id": 1}}, {"index": 3, "id": "b@c@2", "error": {}},
    ]  # fmt: skip
    assert list(sweep_rows.by_point(rows, 2)) == [
        (0, {"index": 0, "id": "a"}), (0, {"index": 1, "id": 1}),
        (1, {"index": 0, "id": "a"}), (1, {"index": 1, "id": "b@c", "error": {}}),
    ]  # fmt: skip


def test_one_job_is_cancelled_once_and_drawn_by_point(sent: list[Rows], monkeypatch: pytest.MonkeyPatch) -> None:
    found = rehearse(["x", "y"], name="s", over={"sampling.stop": ["<b>", "&"]})
    assert Sweep.find("s")[1].job.path == found[0].job.path
    html = card(Sweep.find("s"))
    assert "&lt;b&gt;" in html and "<b>" not in html
    assert html.count('<td class="vh-num">0/2</td>') == 2 and "2 points in one job" in html
    cancelled: list[str] = []
    monkeypatch.setattr(Job, "cancel", lambda job: cancelled.append(job.path.name))
    monkeypatch.setattr("vllm_hpc.schedulers.local._query", lambda job: JobState("running"))
    found.cancel()
    assert cancelled == ["s-all"]
    record = json.loads(Path("runs/s/sweep.json").read_text())
    assert [point["job"] for point in record["points"]] == ["s-all"] * 2
