"""show and errors: the rows of a job to look at, while it runs, once it has ended, and once it was cleaned."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.named_jobs import failed_row, named_job
from tests.conftest import Cli
from tests.crafted import make_job, read_lines, result, start, write_index, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.error_groups import normalised

pytestmark = pytest.mark.notebooks

HOSTILE = "\x1b]52;c;cm0=\x07\u202e red"


@pytest.fixture
def running(desk: Path) -> JobFolder:
    """A job with rows 1, 3 and 4 of 6 finished, the last with an error; and a torn line."""
    folder = named_job(desk / "runs" / "one", [result(3, "third"), result(1, "first\nline"), failed_row(4, "too long")],
                       ends=False, total=6)  # fmt: skip
    with folder.shard(0, 1).open("a") as file:
        file.write('{"index": 2, "id": "2", "te')
    return folder


def lines_of(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def test_the_finished_rows_are_shown_with_their_prompts(running: JobFolder, run_cli: Cli) -> None:
    ran = run_cli("show", "one", "--head", "2")
    assert ran.code == 0
    assert ran.out == (
        "row 1, id 1: stop, 2 prompt + 3 output tokens\n  prompt: prompt 1\n  answer: first\n    line\n\n"
        "row 3, id 3: stop, 2 prompt + 3 output tokens\n  prompt: prompt 3\n  answer: third\n\n"
    )
    assert ran.err == "2 of 3 finished rows, of 6 in all\n"
    assert "row 4, id 4: error\n  prompt: prompt 4\n  error: ValueError: too long" in run_cli("show", "one").out


@pytest.mark.parametrize(
    ("words", "indices"),
    [
        ([], [1, 3, 4]), (["--head", "1"], [1]), (["--tail", "2"], [3, 4]), (["--head", "1", "--tail", "1"], [1, 4]),
        (["--head", "2", "--tail", "2"], [1, 3, 4]), (["--head", "0"], []), (["--tail", "100000"], [1, 3, 4]),
        (["--id", "3"], [3]), (["--id", "0"], [0]),
    ],
)  # fmt: skip
def test_which_rows(running: JobFolder, run_cli: Cli, words: list[str], indices: list[int]) -> None:
    found = lines_of(run_cli("show", "one", "--json", *words).out)
    assert [row["index"] for row in found] == indices
    assert all(row["input"]["prompt"] == f"prompt {row['index']}" for row in found)
    assert all((row["output"] or {"index": 0})["index"] == row["index"] for row in found)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--id", "6"], 2), (["--id", ""], 2), (["--id", "\ud800"], 2), (["--id", "9" * 50], 2),
        (["--id", "1", "--head", "1"], 2), (["--head", "-1"], 2), (["--head", "100001"], 2), (["--head", "x"], 2),
    ],
)  # fmt: skip
def test_a_row_that_is_not_there_is_one_line(running: JobFolder, run_cli: Cli, words: list[str], code: int) -> None:
    ran = run_cli("show", "one", *words)
    assert (ran.code, ran.out, ran.err.count("\n")) == (code, "", 1)


def test_an_input_that_is_gone_leaves_the_answers(running: JobFolder, run_cli: Cli) -> None:
    running.input.unlink()
    ran = run_cli("show", "one")
    assert (ran.code, ran.out.count("answer: ")) == (0, 2)
    assert ran.err.startswith("Note: the prompts cannot be shown: cannot read")


def test_a_terminal_obeys_no_answer_and_long_ones_end(desk: Path, run_cli: Cli) -> None:
    named_job(desk / "runs" / "one", [result(0, HOSTILE + "x" * 5000), result(1, "\n" * 500), failed_row(2, HOSTILE)])
    ran = run_cli("show", "one")
    assert "\x1b" not in ran.out + ran.err and "\u202e" not in ran.out and "[red]" not in ran.out
    assert "characters: --id shows all)" in ran.out and len(ran.out.splitlines()) < 50
    assert "x" * 5000 in run_cli("show", "one", "--id", "0").out
    assert "\x1b" not in run_cli("errors", "one").out
    assert json.loads(run_cli("show", "one", "--id", "0", "--json").out)["output"]["text"].startswith(HOSTILE)


SHAPES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    ({"messages": [{"role": "system", "content": "be"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
     {"text": "ho"}, ["system: be", "user: hi", "answer: ho"]),
    ({"prompt": [1, 2, 3]}, {"text": ""}, ["prompt: [1,2,3]", "answer: "]),
    ({"prompt": "p"}, {"text": "", "outputs": [{"text": "a"}, {"text": "b"}]},
     ["prompt: p", "answer 1: a", "answer 2: b"]),
    ({"prompt": "p"}, {"embedding": [0.5] * 12}, ["prompt: p", "embedding: 12 numbers"]),
    ({"prompt": "p"}, {"text": None, "finish_reason": None}, ["prompt: p", "answer: (none)"]),
    ({"messages": "odd"}, {"text": {"a": 1}}, ["prompt: (none)", 'answer: {"a":1}']),
]  # fmt: skip


@pytest.mark.parametrize(("given", "out", "said"), SHAPES, ids=str)
def test_rows_of_every_shape(
    desk: Path, run_cli: Cli, given: dict[str, Any], out: dict[str, Any], said: list[str]
) -> None:
    folder = make_job(desk / "runs" / "one", [given])
    write_lines(folder.shard(0, 1), [{"index": 0, "id": "0", **out}])
    start(folder)
    shown = run_cli("show", "one")
    assert shown.code == 0, shown
    assert [line.strip() for line in shown.out.splitlines()][1:-1] == [line.strip() for line in said]


def batch(desk: Path) -> JobFolder:
    """Two lines of an OpenAI batch, one with an error."""
    folder = make_job(desk / "runs" / "batch", 2)
    rows = [{"index": n, "id": f"c-{n}", "messages": [{"role": "user", "content": f"ask {n}"}],
             "batch": {"custom_id": f"c-{n}"}} for n in range(2)]  # fmt: skip
    write_lines(folder.input, rows)
    write_index(folder)
    body = {"choices": [{"message": {"content": "an answer"}}], "usage": {"prompt_tokens": 4, "completion_tokens": 5}}
    lines = [
        {"id": "b0", "custom_id": "c-0", "response": {"status_code": 200, "body": body}, "error": None},
        {"id": "b1", "custom_id": "c-1", "response": None, "error": {"code": "ValueError", "message": "is 4097 long"}},
    ]
    whole = [{"index": 0, "id": "c-0", "line": lines[0]}, {"index": 1, "id": "c-1", "error": {}, "line": lines[1]}]
    write_lines(folder.shard(0, 1), whole)
    start(folder)
    return folder


def test_lines_of_an_openai_batch(desk: Path, run_cli: Cli) -> None:
    batch(desk)
    out = run_cli("show", "batch").out
    assert "row 0, id c-0: 4 prompt + 5 output tokens\n  user: ask 0\n  answer: an answer\n" in out
    assert "row 1, id c-1: error\n  user: ask 1\n  error: ValueError: is 4097 long\n" in out
    (found,) = lines_of(run_cli("show", "batch", "--id", "c-1", "--json").out)
    assert (found["id"], found["output"]["custom_id"]) == ("c-1", "c-1")
    (group,) = json.loads(run_cli("errors", "batch", "--json").out)["groups"]
    assert (group["type"], group["first_id"], group["prompt"]) == (
        "ValueError", "c-1", [{"role": "user", "content": "ask 1"}],
    )  # fmt: skip


def test_errors_that_are_alike_are_one(desk: Path, run_cli: Cli) -> None:
    rows = [failed_row(n, f"the prompt has {4000 + n} tokens, 'text {n}' at 0x7f{n:02x}") for n in range(1, 9)]
    named_job(desk / "runs" / "one", [result(0), *rows, failed_row(9, "other", "KeyError")], total=11)
    ran = run_cli("errors", "one")
    assert (ran.code, ran.out.splitlines()[0]) == (0, "8 rows: ValueError: the prompt has N tokens, '...' at 0x...")
    assert (
        "  first: id 1, row 1\n  says: the prompt has 4001 tokens, 'text 1' at 0x7f01\n  prompt: prompt 1\n" in ran.out
    )
    assert "1 row: KeyError: other\n" in ran.out
    assert ran.err.startswith("9 of 11 rows with an error, 1 without a result so far: vllm-hpc resume one --retry")
    found = json.loads(run_cli("errors", "one", "--json").out)
    assert ([g["count"] for g in found["groups"]], found["failed"], found["missing"]) == ([8, 1], 9, 1)


def test_a_job_without_errors_has_none(desk: Path, run_cli: Cli) -> None:
    named_job(desk / "runs" / "one")
    ran = run_cli("errors", "one")
    assert (ran.code, ran.out, ran.err) == (0, "", "0 of 3 rows with an error\n")


@pytest.mark.parametrize("error", [None, "text", 5, [], ["a"], {"message": None}, {"type": {}, "message": {"a": 1}}])
def test_errors_of_any_form(desk: Path, run_cli: Cli, error: Any) -> None:
    named_job(desk / "runs" / "one", [{"index": 0, "id": "0", "error": error, "text": ""}])
    for command in ("errors", "show"):
        ran = run_cli(command, "one")
        assert ran.code == 0, ran


def test_many_kinds_of_messages_are_bounded(desk: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.jobs.error_groups._MOST_GROUPS", 3)
    named_job(desk / "runs" / "one", [failed_row(n, "abcdefgh"[n] * 3) for n in range(8)], total=8)
    groups = json.loads(run_cli("errors", "one", "--json").out)["groups"]
    assert [(g["message"], g["count"]) for g in groups] == [
        ("(other messages)", 5), ("aaa", 1), ("bbb", 1), ("ccc", 1),
    ]  # fmt: skip


ALIKE = {
    "a 5 b 1,000.5.": "a N b N.", "llama3 x2": "llama3 x2", "in \"a b\" and 'c'": "in '...' and '...'",
    "don't, can't": "don't, can't", "": "", "a\n\n b": "a b", "'" * 3000: "'...'" * 1000, "0" * 10**5: "N",
    "at 0x7fA or deadbeef0123": "at 0x... or 0x...", "\u0665 and \x00": "N and \x00",
}  # fmt: skip


@pytest.mark.parametrize(("message", "plain"), ALIKE.items(), ids=range(len(ALIKE)))
def test_what_differs_is_taken_out(message: str, plain: str) -> None:
    assert normalised(message) == plain


def test_a_job_that_is_cleaned_still_shows_its_rows(desk: Path, run_cli: Cli) -> None:
    folder = named_job(desk / "runs" / "one")
    before = run_cli("show", "one", "--json").out
    assert run_cli("clean", "one").code == 0
    assert list(folder.shards.iterdir()) == []
    assert run_cli("show", "one", "--json").out == before
    assert run_cli("show", "one", "--tail", "1", "--json").out == before.splitlines(keepends=True)[-1]
    assert run_cli("errors", "one").err == "0 of 3 rows with an error\n"


def test_a_damaged_shard_is_one_line(desk: Path, run_cli: Cli) -> None:
    folder = named_job(desk / "runs" / "one")
    folder.shard(0, 1).unlink()
    os.mkfifo(folder.shard(0, 1))
    for command in ("errors", "show"):
        ran = run_cli(command, "one")
        assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert read_lines(folder.input)


def test_a_job_without_its_shards_is_one_line(desk: Path, run_cli: Cli) -> None:
    folder = named_job(desk / "runs" / "one")
    shutil.rmtree(folder.shards)
    for command in ("errors", "show", "collect"):
        ran = run_cli(command, "one")
        assert (ran.code, ran.err) == (1, f"Error: cannot read {folder.shards}: No such file or directory\n")


def test_a_field_called_line_is_no_line_of_a_batch(desk: Path, run_cli: Cli) -> None:
    named_job(desk / "runs" / "one", [{**result(0, "an answer"), "line": {"text": "mine"}}], total=1)
    assert "  answer: an answer\n" in run_cli("show", "one").out
