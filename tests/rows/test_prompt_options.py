"""--prompt-column and --prompt-template: the prompt of a row from its other fields, in every format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.read import checked_rows, find_sources, read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, carried_fields
from vllm_hpc.rows.row_maker import RowMaker
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs


def read(folder: Path, name: str, content: str, **options: Any) -> tuple[list[Row], list[str]]:
    (folder / name).write_text(content, encoding="utf-8")
    source = find_sources(str(folder / name), Reading(**options))
    return list(checked_rows(source)), source.row_notes.lines()


def test_alpaca_by_a_template() -> None:
    file = Path(__file__).parents[1] / "inputs" / "alpaca.json"
    text = "{{ instruction }}{% if input %}: {{ input }}{% endif %}"
    (row,) = read_rows(str(file), Reading(prompt_template=text))
    carried = {"instruction": "Add", "input": "1 2", "output": ""}
    assert row == {"index": 0, "id": "0", "prompt": "Add: 1 2", **carried}


def test_a_column_is_the_prompt_and_no_longer_data(tmp_path: Path) -> None:
    (row,), notes = read(tmp_path, "in.jsonl", '{"question": "q", "text": "t", "n": 1}', prompt_column="question")
    assert (row["prompt"], carried_fields(row)) == ("q", {"in_text": "t", "n": 1})
    assert len(notes) == 1
    (row,), notes = read(tmp_path, "in.jsonl", '{"text": "t"}', prompt_column="text")
    assert (row, notes) == ({"index": 0, "id": "0", "prompt": "t"}, [])
    (row,), _ = read(tmp_path, "in.jsonl", '{"tokens": [1, 2]}', prompt_column="tokens")
    assert row["prompt"] == [1, 2]


def test_a_prompt_that_is_replaced_is_carried(tmp_path: Path) -> None:
    for option in ({"prompt_column": "q"}, {"prompt_template": "{{ q }}"}):
        line = json.dumps({"prompt": "p", "messages": [], "q": "x"})
        (row,), (note,) = read(tmp_path, "in.jsonl", line, **option)
        assert (row["prompt"], row["in_prompt"], row["in_messages"]) == ("x", "p", [])
        assert "'prompt' as 'in_prompt', 'messages' as 'in_messages'" in note


def test_an_output_file_is_judged_by_a_template(tmp_path: Path) -> None:
    line = json.dumps({"index": 3, "id": "a", "text": "4", "finish_reason": "stop"})
    (row,), _ = read(tmp_path, "in.jsonl", line, prompt_template="Is {{ text }} right?")
    assert (row["id"], row["prompt"], row["in_text"], row["in_index"]) == ("a", "Is 4 right?", "4", 3)


def test_lines_of_text_by_a_template(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, "in.txt", "one\n\ntwo\n", prompt_template="Translate: {{ prompt }}")
    assert [row["prompt"] for row in rows] == ["Translate: one", "Translate: two"]


def test_a_template_over_renamed_and_forgiven_names(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, "in.csv", "ID, Text ,Lang\n7,Hi,de\n", prompt_template="{{ Text }} {{ ID }} {{ id }}")
    assert row == {"index": 0, "id": "7", "prompt": "Hi 7 7", "Text": "Hi", "Lang": "de"}
    (row,), _ = read(tmp_path, "in.csv", "q\nHi\n", prompt_template="{{ text }}", rename={"q": "text"})
    assert (row["prompt"], row["in_text"]) == ("Hi", "Hi")


@pytest.mark.parametrize(
    ("name", "content", "options", "said"),
    [
        ("in.jsonl", '{"q": "a"}\n{"b": 1}', {"prompt_column": "q"}, ":2: the row has no 'q' (--prompt-column)"),
        ("in.jsonl", '{"q": "a"}\n{"q": null}', {"prompt_column": "q"}, ":2: the row has no 'q'"),
        ("in.jsonl", '{"q": 3}', {"prompt_column": "q"}, ":1: 'q' must be a string or a list of token ids"),
        ("in.jsonl", '{"q": [{"role": "user", "content": "a"}]}', {"prompt_column": "q"}, "use --rename q=messages"),
        ("in.jsonl", '{"q": "a"}\n{"b": 1}', {"prompt_template": "{{ q }}"}, ":2: --prompt-template: no field 'q'"),
        ("in.jsonl", '{"q": "a"}\n{"q": ""}', {"prompt_template": "{{ q }}"}, ":2: --prompt-template gives an empty"),
        ("in.jsonl", '{"q": NaN}', {"prompt_template": "{{ q }}"}, ":1: 'q' contains NaN"),
        ("in.jsonl", '{"q": NaN}', {"prompt_column": "q"}, ":1: 'q' contains NaN"),
        (
            "in.jsonl", '{"error": {"type": "missing", "message": "m"}}', {"prompt_template": "{{ text }}"},
            "an earlier job wrote it for a row with an error",
        ),
        ("in.csv", "q,id\na,1\n,2\n", {"prompt_column": "q"}, ":3: the row has no 'q'"),
        ("in.csv", "q,id\na,1\n", {"prompt_column": "Q"}, ":1: no column 'Q' (--prompt-column), only 'q', 'id'"),
        ("in.csv", "q,id\na,1\n", {"prompt_template": "{{ x }}"}, "no field 'x', only 'q', 'id'"),
        (
            "in.jsonl", '{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "a"}}', {"prompt_column": "x"},
            "in.jsonl is an OpenAI batch, for which --prompt-column cannot be used",
        ),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_refused(tmp_path: Path, name: str, content: str, options: Row, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, name, content, **options)
    assert said in str(caught.value)


def test_half_a_character_in_a_field_of_the_template(tmp_path: Path) -> None:
    (_, row), _ = read(tmp_path, "in.jsonl", '{"q": "a"}\n{"q": "\\ud83d", "t": 1}', prompt_template="{{ q }}")
    assert row["error"]["message"].startswith(f"{tmp_path}/in.jsonl:2: 'q' contains half of a surrogate pair")
    assert (row["t"], "prompt" in row) == (1, False)


def test_a_body_column_is_the_prompt(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, "in.jsonl", '{"custom_id": "a", "body": "Dear Ann"}', prompt_column="body")
    assert (row["prompt"], row["custom_id"]) == ("Dear Ann", "a")


def test_a_template_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    maker = RowMaker("jsonl", Reading(prompt_template="{{ a }}"), Notes())
    monkeypatch.setattr("vllm_hpc.rows.template.PromptTemplate.__init__", None)
    assert [maker.of_line(b'{"a": "x"}', n, n)["prompt"] for n in range(3)] == ["x"] * 3  # type: ignore[index]
