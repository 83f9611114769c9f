"""Tables without a header, and what R and Spark write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.rows.public_rows import HI
from vllm_hpc.rows.read import checked_rows, find_sources
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs


def read(folder: Path, content: str, name: str = "in.csv", **options: Any) -> tuple[list[Row], list[str]]:
    (folder / name).write_text(content)
    source = find_sources(str(folder / name), Reading(**options))
    return list(checked_rows(source)), source.row_notes.lines()


def refusal(folder: Path, content: str, name: str = "in.csv", **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, content, name, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# -- the header ------------------------------------------------------------------------------------------------------
MMLU = '"Find the degree for the given field extension Q(sqrt(2), sqrt(3), sqrt(18)) over Q.",0,4,2,6,B\n'
TWICE = MMLU.replace("0,4", "4,4")


@pytest.mark.parametrize(
    ("content", "options"),
    [
        (MMLU, {}),
        (TWICE, {}),
        (MMLU, {"prompt_column": "question"}),
        (MMLU, {"prompt_template": "{{ question }}"}),
        ("What is a cow?,An animal\nWhat is a car?,A machine\n", {}),
        ("Write a poem\nWrite a song\n", {}),
        ("1,Write a poem\n2,Write a song\n", {}),
    ],
)
def test_a_row_in_place_of_a_header_is_asked_about(tmp_path: Path, content: str, options: dict[str, str]) -> None:
    words = refusal(tmp_path, content, **options)
    assert "in.csv:1: " in words
    assert "does the file have a header? If not, write " in words
    assert len(words) < 500


@pytest.mark.parametrize(
    "content",
    ["0,1\nWhat?,a\n", "frage,antwort\na,b\n", "question\na\n", "Question,Is it true?\na,b\n"],
    ids=["pandas", "unknown", "known", "a form"],
)
def test_a_header_is_not_taken_for_a_row(tmp_path: Path, content: str) -> None:
    assert "does the file have a header?" not in refusal(tmp_path, content)


def test_a_lone_column_may_be_either(tmp_path: Path) -> None:
    words = refusal(tmp_path, "frage\na\n")
    assert words.endswith("If not, write 'prompt' as the first line; if it has, use --prompt-column frage")


def test_a_template_may_name_any_header(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, "What is it?,2024\na,b\n", prompt_template="{{ row['What is it?'] }}")
    assert row["prompt"] == "a"


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("Type,Category,Question,Best Answer,Source", "use --prompt-column Question, or"),
        ("instruction,input,output", "use --prompt-template '{{ [instruction, input] | select | join"),
        ("id,title,context,question,answers", "use --prompt-template '{{ [context, question] | select | join"),
        ("q1,q2", "use --prompt-column NAME with the one"),
        ("0,1", "use --prompt-column NAME with the one"),
        ("target,category,label", "use --prompt-column NAME with the one that is the prompt"),
        ("Abstract Note;Key", "--prompt-column 'Abstract Note', or --prompt-template with {{ row[\"Abstract"),
    ],
)  # fmt: skip
def test_a_header_is_advised_as_a_row_is(tmp_path: Path, header: str, said: str) -> None:
    assert said in refusal(tmp_path, f"{header}\n")


def test_parquet_is_advised_by_its_first_row(tmp_path: Path) -> None:
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns: list[tuple[dict[str, list[Any]], str]] = [
        ({"translation": [{"de": "Hallo", "en": "Hello"}]}, "use --prompt-template '{{ translation.en }}'"),
        ({"question_id": [81], "turns": [["One", "Two"]]}, "use --prompt-template '{{ turns[0] }}'"),
        ({"conversation_id": ["a"], "conversation": [HI]}, "use --rename conversation=conversations"),
    ]
    for table, said in columns:
        pq.write_table(arrow.table(table), tmp_path / "in.parquet")
        with pytest.raises(InputError) as caught:
            list(checked_rows(find_sources(str(tmp_path / "in.parquet"))))
        assert f"no column 'prompt' or 'messages', only {next(iter(table))!r}" in str(caught.value)
        assert said in str(caught.value)


# -- R's NA ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("word", ["NA", "NaN", "NULL", "None", "\\N"])
def test_a_word_for_a_missing_value_is_said_once(tmp_path: Path, word: str) -> None:
    rows, (note,) = read(tmp_path, f'"id","prompt","n"\n1,"a",NA\n{word},"b",1\n3,{word},NA\n')
    assert [(row["id"], row["prompt"]) for row in rows] == [("1", "a"), (word, "b"), ("3", word)]
    assert note.startswith(
        f"2 rows: read as that text: 'id' is {word}, 'prompt' is {word}: leave the cell of a missing"
    )
    assert note.endswith("in.csv:3)")
    _, (note,) = read(tmp_path, f"q,n\n{word},NA\n", prompt_column="q")
    assert f"'q' is {word}" in note


def test_ids_that_are_missing_values_are_refused_as_such(tmp_path: Path) -> None:
    words = refusal(tmp_path, "id,prompt\nNA,a\nNA,b\n")
    said = ":3: id 'NA' was given before: it stands for a missing value: leave these cells empty (the first: "
    assert said in words


# -- Spark's backslashes ---------------------------------------------------------------------------------------------
SAID = ': if it is from Spark, which writes \\" for a quote in a cell, write it with .option("escape", "\\"")'
SPARKS = [
    'prompt,n\n"He said \\"hi\\" to me, twice",1\n',
    'prompt,n\n"\\"Hi\\" is a greeting",1\n',
    'prompt,n\nplain,0\n"It ends with \\"a quote\\"",1\nplain,2\n',
    'prompt,n\n"a \\", b",1\n',
    'n\tprompt\n1\t"a \\"b\\" c"\n',
]


@pytest.mark.parametrize("content", SPARKS)
@pytest.mark.parametrize("name", ["in.csv", "in.tsv"])
def test_sparks_escapes_are_refused_with_what_to_do(tmp_path: Path, name: str, content: str) -> None:
    words = refusal(tmp_path, content.replace(",n", "\tn").replace(",", "\t") if name == "in.tsv" else content, name)
    assert words.endswith(SAID), words


def test_sparks_escapes_in_rows_that_can_be_read_are_said(tmp_path: Path) -> None:
    rows, (note,) = read(tmp_path, 'prompt\n"He said \\"\nand left"\n')
    assert len(rows) == 2
    assert note.startswith("1 row: a backslash before a quote is read as the end of a cell, in 'prompt': if Spark")


def test_backslashes_of_others_are_text(tmp_path: Path) -> None:
    said = json.dumps({"a": 'say "hi"'}).replace('"', '""')
    rows, notes = read(tmp_path, f'prompt,tag\n"{said}","C:\\a"\nb\\c,d\n')
    assert (json.loads(rows[0]["prompt"]), rows[1]["prompt"], notes) == ({"a": 'say "hi"'}, "b\\c", [])
