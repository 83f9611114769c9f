"""What is said of rows and files that people really bring: refusals with advice, and notes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.rows.read import checked_rows, find_sources
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.request import Request

TEXT = {"prompt": "a"}
CHAT = [{"role": "user", "content": "Hi"}]
ANSWERED = {"choices": [{"message": {"role": "assistant", "content": "Yes"}}]}


def written(folder: Path, name: str, content: str | bytes | list[Row]) -> Path:
    file = folder / name
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refusal(file: Path | str, **options: str | dict[str, str]) -> str:
    with pytest.raises(InputError) as caught:
        list(checked_rows(find_sources(str(file), Reading(**options))))  # type: ignore[arg-type]
    return str(caught.value)


def notes(file: Path, request: Request | None = None, **options: str) -> list[str]:
    intake = Intake(str(file), reading=Reading(**options))  # type: ignore[arg-type]
    list(intake.rows())
    return intake.notes(request or Request(model="demo"))


# -- text files ------------------------------------------------------------------------------------------------------
def test_excels_unicode_text_is_told_its_new_name(tmp_path: Path) -> None:
    table = written(tmp_path, "a.txt", "id\tprompt\n1\tGrüße\n".encode("utf-16"))
    assert refusal(table).endswith("iconv -f UTF-16 -t UTF-8, and name it .tsv, since tabs separate its columns")
    assert refusal(written(tmp_path, "b.txt", "Grüße\n".encode("utf-16"))).endswith("iconv -f UTF-16 -t UTF-8")


@pytest.mark.parametrize(
    ("line", "suffix"),
    [("id\tprompt", ".tsv"), ("ID\tquestion\tmine", ".tsv"), ("id,prompt", ".csv"), ("id;text", ".csv")],
)
def test_a_header_in_a_txt_is_said(tmp_path: Path, line: str, suffix: str) -> None:
    (note,) = notes(written(tmp_path, "a.txt", f"\n{line}\n1 2\n"))
    assert note.startswith("the first line looks like a table's header, and is run as a prompt: if it is one, name the")
    assert f"the file {suffix} (the first: " in note
    assert notes(written(tmp_path, "b.txt", f"Hi\n{line}\nA text, an input and more\n")) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[{"prompt": "a"}, {"prompt": "b"}]\n', "an array in JSON: name the file .json"),
        ('["a", "b"]\n', "an array in JSON: name the file .json"),
        ('\n[\n  {"q": "a"},\n  {"q": "b"}\n]\n', "an array in JSON: name the file .json"),
        ('{\n  "prompt": "a"\n}\n', "a row in JSON: name the file .jsonl"),
    ],
)
def test_json_in_a_txt_is_refused(tmp_path: Path, text: str, said: str) -> None:
    assert refusal(written(tmp_path, "a.txt", text)).endswith(said)


@pytest.mark.parametrize("text", ["[1] Who said so?", "[1, 2, 3]", '["a" and more', "[", "{", '{"x": 1}'])
def test_prompts_that_begin_as_json_does_are_prompts(tmp_path: Path, text: str) -> None:
    (row,) = checked_rows(find_sources(str(written(tmp_path, "a.txt", text + "\n"))))
    assert row["prompt"] == text


# -- refusals --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"conversations": [{"from": "human", "value": "Hi"}]}, {"prompt_column": "conversations"},
         "not a chat: leave --prompt-column conversations out, and the chat is run"),
        ({"messages": CHAT}, {"prompt_column": "messages"}, "not a chat: leave --prompt-column messages out"),
        ({"c": CHAT}, {"prompt_column": "c"}, "not a chat: use --rename c=messages instead of --prompt-column"),
        ({"prompt": [{"from": "human", "value": "Hi"}]}, {}, "not a chat: use --rename prompt=conversations"),
        ({"prompt": 3}, {}, "write it in quotes, or use --prompt-template '{{ prompt }}'"),
        ({"messages": "Hi"}, {}, "'messages' must be a list of messages, such as [{"),
        ({"messages": [*CHAT, {"type": "human", "content": "Hi"}]}, {}, "but message 2 has 'type', 'content'"),
        ({"messages": [{"type": "human", "content": "Hi"}]}, {},
         """jq -c '.messages |= [.[] | {role: {"human": "user"}[.type], content: .content}]' does"""),
        ({"messages": [{"type": "ai", "data": {"content": "Hi"}}]}, {}, "content: .data.content}]' does"),
        ({"custom_id": "a", "response": {"status_code": 200, "body": ANSWERED}}, {"prompt_template": "{{ q }}"},
         "or --prompt-template '{{ response.body.choices[0].message.content }}' for its answers"),
        ({"custom_id": "a", "response": {"status_code": 400}}, {"prompt_template": "{{ q }}"},
         "or leave these out, as jq -c 'select(.response.status_code == 200)' does"),
        ({"q": "a"}, {"prompt_template": "{{ q }}{{ context }}"},
         'only \'q\': for rows without it write {{ context | default("") }}, or {% if context is defined %}'),
        ({"q": "a"}, {"prompt_template": "{{ row.context }}"},
         "no field 'context' in an object that has 'q': for rows"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_to_do(tmp_path: Path, row: Row, options: dict[str, str], said: str) -> None:
    assert said in refusal(written(tmp_path, "a.jsonl", [row]), **options)


def test_a_repeated_request_is_refused_with_the_first(tmp_path: Path) -> None:
    request = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": CHAT}}
    file = written(tmp_path, "a.jsonl", [request, request])
    said = "id 'a' was given before: give every request a custom_id of its own"
    assert refusal(file) == f"{file}:2: {said} (the first: {file}:1)"


def test_a_folder_of_datasets_is_told_how_to_convert_it(tmp_path: Path) -> None:
    for name, content in (("dataset_info.json", "{}"), ("state.json", "{}"), ("data-0.arrow", "\xff\xff\xff\xff")):
        written(tmp_path, name, content)
    for given in (tmp_path, tmp_path / "state.json", tmp_path / "*.json"):
        assert "load_from_disk(" in refusal(given)
    (tmp_path / "state.json").unlink()
    assert "is an Arrow file: convert it to .parquet" in refusal(tmp_path / "data-0.arrow")


def test_two_files_in_one_input_are_to_be_given_apart(tmp_path: Path) -> None:
    one, two = written(tmp_path, "a.jsonl", [TEXT]), written(tmp_path, "b.jsonl", [TEXT])
    assert refusal(f"{one},{two}").endswith(f"as in --input {one} --input {two}")


def test_a_lone_column_of_parquet_is_no_header(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"x": ["a"]}), tmp_path / "a.parquet")
    assert refusal(tmp_path / "a.parquet").endswith("use --prompt-column x, or --prompt-template with {{ x }}")


# -- notes -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": ""}, "1 row will become an error row: the prompt is empty"),
        ({**TEXT, "sampling": {"temperature": -1}}, "in 'sampling', 'temperature' must be a number, 0 or more"),
        ({**TEXT, "lora": "sql"}, "no adapter 'sql': add it with --lora"),
        ({**TEXT, "task": "embed"}, "asking to embed, which needs --engine runner=pooling"),
        ({**TEXT, "tools": [{}]}, "'tools' is copied, and has no effect beside a prompt: only 'messages' use it"),
        ({"messages": CHAT, "tools": [{"name": "f"}]}, "are written into the prompt as they are"),
    ],
)
def test_what_is_known_of_rows_is_said(tmp_path: Path, row: Row, said: str) -> None:
    (note,) = notes(written(tmp_path, "a.jsonl", [row, TEXT]))
    assert said in note
    assert note.endswith("a.jsonl:1)")


@pytest.mark.parametrize(
    "sampling", [{"temperature": "0.5", "max_tokens": None}, {"seed": -1}, {"max_tokens": 2**40}, {"logprobs": True}]
)
def test_sampling_that_vllm_takes_is_not_said(tmp_path: Path, sampling: Row) -> None:
    assert notes(written(tmp_path, "a.jsonl", [{**TEXT, "sampling": sampling}])) == []


def test_adapters_of_the_job_and_its_task_are_not_said(tmp_path: Path) -> None:
    file = written(tmp_path, "a.jsonl", [{**TEXT, "lora": "sql"}])
    assert notes(file, Request(model="demo", lora=["sql=adapters/x"])) == []
    file = written(tmp_path, "a.jsonl", [{**TEXT, "task": "embed"}, {**TEXT, "task": "generate"}])
    (note,) = notes(file, Request(model="demo", engine={"runner": "pooling"}))
    assert "1 row will become an error row: asking to generate" in note


def test_a_chat_template_without_chats_is_said(tmp_path: Path) -> None:
    request = Request(model="demo", chat_template="{{ messages }}")
    assert "--chat-template is not used" in notes(written(tmp_path, "a.jsonl", [TEXT]), request)[0]
    assert notes(written(tmp_path, "b.jsonl", [{"messages": CHAT}]), request) == []
    plan = plan_only("demo", input=str(tmp_path / "a.jsonl"), chat_template="{{ messages }}", scheduler="local")
    assert any("--chat-template is not used" in reason for reason in plan.reasons)


def test_notes_on_an_array_have_the_items_number_and_both_causes(tmp_path: Path) -> None:
    rows = [TEXT, {"conversations": []}, {"conversations": [{"from": "x", "value": "a"}]}]
    (note,) = notes(written(tmp_path, "a.json", json.dumps(rows)))
    assert "'conversations' is empty: it must be a list of turns; and another reason, such as turn 1 of" in note
    assert note.endswith("a.json:1: item 2)")
