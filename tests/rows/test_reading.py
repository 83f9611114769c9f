"""The options that say how rows are read, from the command line, job.toml and Python; and what is said once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc import prepare
from vllm_hpc.engine.loop.row_prefetch import Feed
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputIndex, InputReader, iter_rows, read_index
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.jobfolder.store_input import VARIABLE, Intake
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.notes import ANSWERED, RENAMED, Notes
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row, UnreadableRowError
from vllm_hpc.spec.errors import InputError, RequestError
from vllm_hpc.spec.job_definition import make_request

pytestmark = pytest.mark.inputs

CHAT = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def submitted(desk: Path) -> list[Row]:
    return list(iter_rows(JobFolder(desk / "runs" / "first")))


def test_options_of_the_command_line_reach_the_rows(desk: Path, model: Path, run_cli: Cli) -> None:
    write(desk / "in.jsonl", {"title": "T", "text": "body", "tag": 1})
    options = ("--rename", "text=source", "--rename", "tag=label", "--prompt-template", "{{ title }}: {{ source }}")
    result = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "first", *options)
    assert (result.code, result.err) == (0, "")
    (row,) = submitted(desk)
    assert row == {"index": 0, "id": "0", "title": "T", "source": "body", "label": 1, "prompt": "T: body"}
    record = JobFolder(desk / "runs" / "first").job()
    assert record.request.rename == {"text": "source", "tag": "label"}
    assert record.origins["prompt_template"] == "--prompt-template"


def test_notes_are_said_once_by_submit_and_by_plan(desk: Path, model: Path, run_cli: Cli) -> None:
    rows = [{"messages": CHAT, "text": "t", "id": f"row {n}"} for n in range(30)]
    write(desk / "in.jsonl", *rows, r'{"prompt": "\ud83d"}', '{"prompt": "x", "score": NaN}')
    result = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "first")
    said = result.err.splitlines()
    assert [line.partition(" (the first: ")[0] for line in said] == [
        "Note: 1 row cannot be run and becomes an error row: 'prompt' contains half of a surrogate pair, \\ud83d, "
        "which is no character: was the text cut inside one?",
        "Note: 30 rows end with the assistant's turn: use --drop-last-answer, or continue_final_message in "
        "chat_template_kwargs",
        "Note: 30 rows: fields whose names have a meaning here are copied under others: 'text' as 'in_text'",
        "Note: 1 row: NaN or infinity is read as null, in 'score'",
    ]
    assert [line.rpartition(" (the first: ")[2] for line in said] == [f"in.jsonl:{n})" for n in (31, 1, 1, 32)]
    plan = json.loads(run_cli("plan", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--json").out)
    reasons = [reason for reason in plan["reasons"] if "the first: " in reason]
    assert [f"Note: {reason}" for reason in reasons] == said
    assert len(submitted(desk)) == 32


def test_drop_last_answer(desk: Path, model: Path, run_cli: Cli) -> None:
    write(desk / "in.jsonl", {"messages": CHAT})
    options = ("--scheduler", "slurm", "--name", "first", "--drop-last-answer")
    result = run_cli("submit", "model", "--input", "in.jsonl", *options)
    assert result.err == (
        "Note: 1 row: the last answer is not in the prompt, but copied to the output as 'reference' "
        "(the first: in.jsonl:1)\n"
    )
    assert submitted(desk) == [{"index": 0, "id": "0", "messages": CHAT[:1], "reference": "a"}]


def test_notes_know_the_job(desk: Path, model: Path, run_cli: Cli) -> None:
    write(desk / "in.jsonl", {"messages": CHAT[:1]})
    options = ("--input", "in.jsonl", "--scheduler", "slurm")
    in_vain = run_cli("submit", "model", *options, "--drop-last-answer")
    assert in_vain.err == "Note: --drop-last-answer: no row ends with the assistant's turn\n"
    write(desk / "in.jsonl", {"messages": CHAT})
    assert run_cli("submit", "model", *options, "--engine", "runner=pooling").err == ""


def test_a_job_definition_may_hold_a_long_template(desk: Path, model: Path, run_cli: Cli) -> None:
    folder = desk / "definition"
    folder.mkdir()
    write(folder / "in.jsonl", {"a": "A", "q": "Q"})
    (folder / "job.toml").write_text(
        'model = "../model"\ninput = "in.jsonl"\nscheduler = "slurm"\nprompt_template = """\nSay:\n{{ b }}"""\n'
        '[rename]\na = "b"\n'
    )
    assert run_cli("submit", "definition", "--name", "first").code == 0
    assert submitted(desk)[0]["prompt"] == "Say:\nA"
    assert run_cli("submit", "definition", "--name", "second", "--prompt-column", "q").code == 0
    (row,) = iter_rows(JobFolder(desk / "runs" / "second"))
    assert (row["prompt"], row["b"]) == ("Q", "A")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--prompt-column", "q", "--prompt-template", "{{ q }}"], "--prompt-column and --prompt-template are both"),
        (["--prompt-column", " "], "--prompt-column must be the name of a column"),
        (["--prompt-template", ""], "--prompt-template must be a text such as"),
        (["--prompt-template", "{{ q"], "--prompt-template: unexpected end of template"),
        (["--prompt-template", "q"], "--prompt-template names no field"),
        (["--prompt-template", "{{ q }}" + " " * (1 << 20)], "--prompt-template has 1048583 characters: use at most"),
        (["--prompt-template", "{{ x }}"], "in.jsonl:1: --prompt-template: no field 'x', only 'q', 'r'"),
        (["--prompt-column", "x"], "in.jsonl:1: the row has no 'x' (--prompt-column), only 'q', 'r'"),
        (["--rename", "q"], "must be K=V"),
        (["--rename", "q="], "--rename must be OLD=NEW, two names, not 'q='"),
        (["--rename", "q=prompt", "--rename", "r=prompt"], "--rename gives two fields the name 'prompt'"),
        (["--rename", "q=prompt", "--rename", "s=t"], "in.jsonl has no row with a field 's': correct --rename s=t"),
        (["--rename", "q=r"], "in.jsonl:1: it has 'r' beside 'q'"),
    ],
    ids=lambda value: str(value)[:40],
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(
    desk: Path, model: Path, run_cli: Cli, options: list[str], said: str
) -> None:
    write(desk / "in.jsonl", {"q": "a", "r": 1})
    result = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", *options)
    assert (result.code, result.out) == (2, "")
    assert said in result.err
    assert len(result.err.splitlines()) == 1 or "Usage" in result.err
    assert not (desk / "runs").exists()


@pytest.mark.parametrize(
    "options",
    [["--prompt-column", "q"], ["--prompt-template", "{{ q }}"], ["--rename", "a=b"], ["--drop-last-answer"]],
    ids=str,
)
def test_options_about_rows_need_an_input(desk: Path, model: Path, run_cli: Cli, options: list[str]) -> None:
    for command in ("submit", "plan"):
        result = run_cli(command, "model", "--scheduler", "slurm", *options)
        assert result.code == 2
        assert result.err.endswith(f"{options[0]} is about the rows of an input: add --input, or leave it out\n")


# -- Python ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"prompt": "question"}, {"prompt_column": "question"}),
        ({"prompt": "Say {{ question }}"}, {"prompt_template": "Say {{ question }}"}),
        ({"prompt": "{% if a %}{{ a }}{% endif %}"}, {"prompt_template": "{% if a %}{{ a }}{% endif %}"}),
        ({"prompt_column": "q", "rename": {"a": "b"}}, {"prompt_column": "q", "rename": {"a": "b"}}),
        ({"drop_last_answer": True}, {"drop_last_answer": True}),
    ],
    ids=str,
)
def test_names_in_python_are_those_of_the_options(given: dict[str, Any], expected: dict[str, Any]) -> None:
    request = make_request({"model": "demo", "input": "in.jsonl", **given})
    assert Reading.of(request) == Reading(**expected)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prompt": 3}, "prompt must be the name of a column, or a template"),
        ({"prompt": "q", "prompt_column": "q"}, "prompt and prompt_column are both given"),
        ({"prompt": "{{ q }}", "prompt_template": "{{ q }}"}, "prompt and prompt_template are both given"),
        ({"rename": ["a"]}, "--rename must be a table of strings such as"),
        ({"rename": {"a": 3}}, "--rename"),
        ({"prompt_column": 3}, '--prompt-column must be a string such as "question"'),
        ({"drop_last_answer": "yes"}, "--drop-last-answer must be true or false"),
    ],
    ids=str,
)
def test_other_values_in_python_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(RequestError) as caught:
        make_request({"model": "demo", **given})
    assert said in str(caught.value)


def test_prompt_in_python_is_a_column_or_a_template_or_an_error(desk: Path, model: Path) -> None:
    write(desk / "in.jsonl", {"question": "Why?"})
    for prompt, expected in (("question", "Why?"), ("Q: {{ question }}", "Q: Why?")):
        prepared = prepare("./model", input="in.jsonl", scheduler="slurm", prompt=prompt)
        assert [row["prompt"] for row in prepared.intake.rows()] == [expected]
    with pytest.raises(InputError, match="the row has no 'Why is' "):
        prepare("./model", input="in.jsonl", scheduler="slurm", prompt="Why is")


# -- a large input, which is read again on the ranks -----------------------------------------------------------------
def test_a_referenced_input_is_read_again_in_the_same_way(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "10")
    write(desk / "in.jsonl", *[{"q": f"question {n}", "text": n} for n in range(20)], r'{"q": "\ud83d"}')
    options = ("--prompt-template", "{{ body }}!", "--rename", "q=body", "--scheduler", "slurm", "--name", "first")
    assert run_cli("submit", "model", "--input", "in.jsonl", *options).code == 0
    job = JobFolder(desk / "runs" / "first")
    assert read_index(job).reading == Reading(prompt_template="{{ body }}!", rename={"q": "body"})
    rows = InputReader(job).rows(0, 21)
    assert [row["prompt"] for row in rows[:20]] == [f"question {n}!" for n in range(20)]
    assert (rows[7]["in_text"], rows[7]["index"]) == (7, 7)
    assert rows == list(Intake(str(desk / "in.jsonl"), reading=read_index(job).reading).rows())
    assert rows[20]["error"]["message"].startswith(f"{desk}/in.jsonl:21: 'body' contains half of a surrogate pair")


def test_several_files_that_are_referenced_are_read_in_one_way(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "10")
    write(desk / "a.jsonl", {"q": "a", "text": 1}, {"question": "b"})
    write(desk / "b.ndjson", {"question": "c", "text": 2}, r'{"question": "\ud83d"}')
    options = (
        "--prompt-template",
        "{{ question }}!",
        "--rename",
        "q=question",
        "--scheduler",
        "slurm",
        "--name",
        "first",
    )
    result = run_cli("submit", "model", "--input", "a.jsonl", "--input", "b.ndjson", *options)
    assert result.code == 0, result.err
    job = JobFolder(desk / "runs" / "first")
    assert [part.format for part in read_index(job).files] == ["jsonl", "jsonl"]
    rows = InputReader(job).rows(0, 4)
    assert [row.get("prompt") for row in rows] == ["a!", "b!", "c!", None]
    assert [row["index"] for row in rows] == [0, 1, 2, 3]
    assert rows[3]["error"]["message"].startswith(f"{desk}/b.ndjson:2: 'question' contains half")
    unreadable, renamed = result.err.splitlines()
    assert unreadable.endswith("(the first: b.ndjson:2)")
    assert renamed.startswith("Note: 2 rows: fields whose names have a meaning here")
    assert renamed.endswith("(the first: a.jsonl:1)")


def test_a_large_array_is_stored_in_blocks(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "10")
    (desk / "in.json").write_text(json.dumps([{"q": "a"}, {"q": "b"}], indent=1))
    options = ("--prompt-column", "q", "--scheduler", "slurm", "--name", "first")
    assert run_cli("submit", "model", "--input", "in.json", *options).code == 0
    index = read_index(JobFolder(desk / "runs" / "first"))
    assert (index.path, index.format, index.reading) == ("input.jsonl.zst", "rows", AS_IT_IS)
    assert [row["prompt"] for row in submitted(desk)] == ["a", "b"]


def test_arrays_of_requests_are_for_one_url(desk: Path, model: Path, run_cli: Cli) -> None:
    chat = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": CHAT[:1]}}
    text = {"custom_id": "b", "url": "/v1/completions", "body": {"prompt": "a"}}
    (desk / "a.json").write_text(json.dumps([chat]))
    (desk / "b.json").write_text(json.dumps([text]))
    (desk / "c.json").write_text(json.dumps([chat, text]))
    write(desk / "d.jsonl", {"prompt": "a"})
    for files, said in (
        (("a.json", "b.json"), "b.json: url '/v1/completions', but a.json has '/v1/chat/completions'"),
        (("c.json",), "c.json:1: item 2: url '/v1/completions', but the first line has '/v1/chat/completions'"),
        (("a.json", "d.jsonl"), "a.json is an OpenAI batch, but d.jsonl is not"),
    ):
        given = [word for file in files for word in ("--input", file)]
        result = run_cli("submit", "model", "--scheduler", "slurm", *given)
        assert result.code == 2
        assert said in result.err


def test_an_input_json_without_a_reading_is_still_read(tmp_path: Path) -> None:
    """As 0.1 writes it, and as it is where no option is given."""
    folder = make_job(tmp_path / "job")
    record = json.loads(folder.input_json.read_text())
    assert "reading" not in record
    index = read_json(folder.input_json, InputIndex)
    assert index is not None
    assert index.reading == AS_IT_IS
    assert [row["prompt"] for row in iter_rows(folder)] == ["prompt 0", "prompt 1", "prompt 2"]


# -- a row that cannot be run ----------------------------------------------------------------------------------------
def only_the_prompt(row: Row) -> Any:
    return row["prompt"]


def test_a_row_with_an_error_is_not_given_to_the_engine(tmp_path: Path) -> None:
    error = {"type": "UnreadableRowError", "message": "in.jsonl:1: words"}
    folder = make_job(tmp_path / "job", [{"prompt": "a"}, {"error": error, "tag": 1}, {"prompt": "b"}])
    feed = Feed(InputReader(folder), only_the_prompt, 8)
    try:
        feed.put(range(3))
        taken: list[Any] = [feed.take() for _ in range(3)]
    finally:
        feed.close()
    assert [taken[0], taken[2]] == ["a", "b"]
    row, refusal = taken[1]
    assert (row["tag"], type(refusal), str(refusal)) == (1, UnreadableRowError, "in.jsonl:1: words")


def test_a_plan_counts_no_tokens_for_it(desk: Path, model: Path) -> None:
    write(desk / "in.jsonl", r'{"prompt": "' + "x" * 4000 + r'\ud83d"}', {"prompt": "a"})
    reasons = plan_only("./model", input="in.jsonl", scheduler="slurm").reasons
    assert any("needs more than 273 tokens" in reason for reason in reasons)


# -- notes -----------------------------------------------------------------------------------------------------------
def test_notes_of_several_files_are_one(tmp_path: Path) -> None:
    first, second = (Notes(lambda number, name=name: f"{name}:{number}") for name in "ab")  # type: ignore[misc]
    first.add(RENAMED, 3, ["'text' as 'in_text'"])
    second.add(RENAMED, 1, ["'text' as 'in_text'", "'index' as 'in_index'"])
    second.add(ANSWERED, 2)
    second.renamed.add("q")
    first.join(second)
    assert first.renamed == {"q"}
    assert first.lines() == [
        "1 row ends with the assistant's turn: use --drop-last-answer, or continue_final_message in "
        "chat_template_kwargs (the first: b:2)",
        "2 rows: fields whose names have a meaning here are copied under others: 'text' as 'in_text', "
        "'index' as 'in_index' (the first: a:3)",
    ]


def test_notes_list_some_names_only() -> None:
    notes = Notes()
    for number in range(1000):
        notes.add(RENAMED, number, [f"'{number}'"])
    (line,) = notes.lines()
    assert line.endswith("'10', '11' ... (the first: 0)")
    assert line.startswith("1,000 rows: ")


@pytest.mark.trust
@pytest.mark.timeout(20)
def test_an_input_that_becomes_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    """Whoever can write in its folder can replace it after it was looked at."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a"}\n')
    file = InputFile(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="regular file"):
        file.open()


def test_an_input_of_too_many_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm_hpc.rows.read.MOST_ROWS", 2)
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' * 3)
    with pytest.raises(InputError, match=r"in\.jsonl has more than 2 rows: submit several jobs"):
        list(Intake(str(tmp_path / "in.jsonl")).rows())
