"""Tables and JSON files as spreadsheets, pandas, R, DuckDB and jq write them."""

from __future__ import annotations

import csv
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows import json_values
from vllm_hpc.rows.read import checked_rows, find_sources
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, carried_fields
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

INPUTS = Path(__file__).parents[1] / "inputs"


def read(file: Path, **options: Any) -> tuple[list[Row], list[str]]:
    source = find_sources(str(file), Reading(**options))
    return list(checked_rows(source)), source.row_notes.lines()


def read_text(folder: Path, name: str, content: str | bytes, **options: Any) -> tuple[list[Row], list[str]]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read(folder / name, **options)


def refusal(folder: Path, name: str, content: str | bytes, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read_text(folder, name, content, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_cell_may_be_longer_than_pythons_limit(tmp_path: Path) -> None:
    """csv refuses one of over 128 KiB, which a document soon has."""
    before = csv.field_size_limit(128 << 10)
    try:
        (row,), _ = read_text(tmp_path, "in.csv", f"id,prompt\n1,{'word ' * 100_000}\n")
    finally:
        csv.field_size_limit(before)
    assert len(row["prompt"]) == 500_000


# -- headers and delimiters ------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "identity"), [("cap.csv", "0"), ("semi.csv", "1"), ("tabs.tsv", "1")])
def test_a_header_is_forgiven_and_a_delimiter_found(name: str, identity: str) -> None:
    assert read(INPUTS / name) == ([{"index": 0, "id": identity, "prompt": "Hi"}], [])


EXPECTED = {"index": 0, "id": "7", "prompt": "Hi, you", "My Price": "1,5"}
TABLES = [
    ("in.csv", 'id,prompt,My Price\n7,"Hi, you","1,5"\n'),
    ("in.csv", 'ID , Prompt,  My Price \n7,"Hi, you","1,5"\n'),
    ("in.csv", '"Id","PROMPT","My Price"\r\n"7","Hi, you","1,5"\r\n'),
    ("in.csv", "id;prompt;My Price\n7;Hi, you;1,5\n"),
    ("in.csv", "\ufeffid;prompt;My Price\r\n7;Hi, you;1,5\r\n"),
    ("in.csv", "sep=;\r\nid;prompt;My Price\r\n7;Hi, you;1,5\r\n"),
    ("in.csv", '\ufeff"sep=;"\nid;prompt;My Price\n7;Hi, you;1,5\n'),
    ("in.csv", "SEP=\t\nid\tprompt\tMy Price\n7\tHi, you\t1,5\n"),
    ("in.csv", "sep=^\nid^prompt^My Price\n7^Hi, you^1,5\n"),
    ("in.csv", "id|prompt|My Price\n7|Hi, you|1,5\n"),
    ("in.csv", "id\tprompt\tMy Price\n7\tHi, you\t1,5\n"),
    ("in.CSV", "My Price;prompt;id\n1,5;Hi, you;7\n"),
    ("in.tsv", "id\tprompt\tMy Price\n7\tHi, you\t1,5\n"),
    ("in.tab", "id\tprompt\tMy Price\n7\tHi, you\t1,5\n"),
    ("in.TSV", 'id\tprompt\tMy Price\r\n7\t"Hi, you"\t1,5\r\n'),
    ("in.csv", 'id,prompt,My Price,,\n7,"Hi, you","1,5",,\n'),
    ("in.csv", '"id";"prompt";"My Price"\n"7";"Hi, you";"1,5"\n\n'),
]


@pytest.mark.parametrize(("name", "content"), TABLES)
def test_tables_of_every_program_give_the_same_row(tmp_path: Path, name: str, content: str) -> None:
    assert read_text(tmp_path, name, content) == ([EXPECTED], [])


def test_one_column_needs_no_delimiter(tmp_path: Path) -> None:
    rows, _ = read_text(tmp_path, "in.csv", 'prompt\n"a;b"\nc|d\n')
    assert [row["prompt"] for row in rows] == ["a;b", "c|d"]


def test_the_empty_rows_of_a_spreadsheet_are_no_rows(tmp_path: Path) -> None:
    rows, _ = read_text(tmp_path, "in.csv", "id,prompt,more\n1,a,\n,,\n,,\n")
    assert [row["id"] for row in rows] == ["1"]


def test_the_delimiter_is_found_by_the_column_that_is_asked_for(tmp_path: Path) -> None:
    (row,), _ = read_text(tmp_path, "in.csv", "a,b;question\n1;Hi\n", prompt_column="question")
    assert row == {"index": 0, "id": "0", "a,b": "1", "prompt": "Hi"}
    (row,), _ = read_text(
        tmp_path, "in.csv", "n;Frage, kurz\n1;Hi\n", prompt_template="{{ row['Frage, kurz'] }} {{ n }}"
    )
    assert row["prompt"] == "Hi 1"
    (row,), _ = read_text(tmp_path, "in.csv", "Frage;n\nHi;1\n", rename={"Frage": "prompt"})
    assert row == {"index": 0, "id": "0", "prompt": "Hi", "n": "1"}


def test_a_name_of_its_own_wins_over_a_forgiven_one(tmp_path: Path) -> None:
    (row,), _ = read_text(tmp_path, "in.csv", "Prompt,prompt,Text,Task\na,b,c,d\n")
    assert (row["prompt"], carried_fields(row)) == ("b", {"Prompt": "a", "Text": "c", "Task": "d"})
    assert "column 'prompt' appears twice" in refusal(tmp_path, "in.csv", "Prompt,PROMPT\na,b\n")
    assert "column 'a' appears twice" in refusal(tmp_path, "in.csv", "prompt,a , a\nx,y,z\n")


@pytest.mark.parametrize(
    ("content", "name", "cells"),
    [
        (",prompt\n0,a\n1,b\n", "Unnamed: 0", ["0", "1"]),
        ('"","prompt"\n"Mazda RX4","a"\n"Datsun","b"\n', "Unnamed: 0", ["Mazda RX4", "Datsun"]),
        (",Unnamed: 0,prompt\n0,5,a\n1,6,b\n", "Unnamed: 0.1", ["0", "1"]),
    ],
)
def test_row_names_of_pandas_and_r_are_carried_and_said(
    tmp_path: Path, content: str, name: str, cells: list[str]
) -> None:
    rows, (note,) = read_text(tmp_path, "in.csv", content)
    assert [(row["prompt"], row[name]) for row in rows] == list(zip("ab", cells, strict=True))
    assert note.startswith(
        f"column 1 has no name and is copied as '{name}': leave it out with to_csv(..., index=False)"
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("in.csv", "frage;antwort\na;b\n", "only 'frage', 'antwort': use --prompt-column NAME with the one"),
        ("in.tsv", "prompt,id\na,1\n", ":1: no column 'prompt' or 'messages', only 'prompt,id'"),
        ("in.csv", "prompt,,id\na,b,1\n", ":2: a value in column 2, which has no name"),
        ("in.csv", "prompt;id\na;1;2\n", ":2: 3 cells, but the header has 2: quote a cell that contains a semicolon"),
        ("in.tsv", 'prompt\tid\n"a"b\t1\n', "quote a cell that contains a tab"),
        ("in.csv", "sep=;\nprompt;id\na;1\nb\n", ":4: 1 cell, but the header has 2"),
        ("in.csv", "sep=;\n", "has no prompt"),
        ("in.csv", "prompt\na\n".encode("utf-16"), ":1: not UTF-8 but UTF-16 (as Excel's 'Unicode Text')"),
        ("in.tsv", "prompt\na\n".encode("utf-16-le"), "only 'p\\x00r\\x00"),
        ("in.jsonl", '{"prompt": "a"}\n'.encode("utf-16"), ":1: not UTF-8 but UTF-16"),
        ("in.txt", "a\n".encode("utf-16"), ":1: not UTF-8 but UTF-16"),
        ("in.csv", b"prompt\n\xe4\n", ":2: not UTF-8: convert the file, for example with iconv -f WINDOWS-1252"),
        ("in.csv", 'prompt,sampling\na,"{""temperature"": NaN}"\n', ":2: 'sampling' contains NaN"),
        ("in.csv", "\n\n", "has no prompt"),
    ],
    ids=lambda value: repr(value)[:30],
)  # fmt: skip
def test_a_table_that_cannot_be_read_is_refused(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, name, content)


def test_cells_of_json_text(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    with (tmp_path / "in.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["conversations", "tools", "lora"])
        writer.writerow([json.dumps(turns), json.dumps([{"type": "function"}]), ""])
    (row,), _ = read(tmp_path / "in.csv", drop_last_answer=True)
    assert row == {
        "index": 0, "id": "0", "messages": [{"role": "user", "content": "Hi"}], "tools": [{"type": "function"}],
        "reference": "Hello",
    }  # fmt: skip
    chat = '"[{""role"": ""user"", ""content"": ""%s""}]"'
    halved = "messages,n\n" + chat % r"\ud83d" + ",1\n" + chat % "a" + ",2\n"
    (bad, good), _ = read_text(tmp_path, "in.csv", halved)
    assert (bad["error"]["type"], bad["n"], good["n"]) == ("UnreadableRowError", "1", "2")


def test_parquet_as_datasets_and_pandas_write_it(tmp_path: Path) -> None:
    arrow, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    turns = [[{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]]
    table = {"conversations": turns, "Id": [1.0], "text": ["t"], "score": [float("inf")], "gap": [float("nan")]}
    pq.write_table(arrow.table(table), tmp_path / "in.parquet")
    (row,), notes = read(tmp_path / "in.parquet", drop_last_answer=True)
    assert row == {
        "index": 0, "id": 1, "messages": [{"role": "user", "content": "Hi"}], "reference": "Hello", "in_text": "t",
        "score": None, "gap": None,
    }  # fmt: skip
    assert [note.partition("row")[2].partition(" (the")[0] for note in notes] == [
        ": the last answer is not in the prompt, but copied to the output as 'reference'",
        ": fields whose names have a meaning here are copied under others: 'text' as 'in_text'",
        ": NaN or infinity is read as null, in 'score'",
    ]


# -- JSON that is not one object a line ------------------------------------------------------------------------------
ROWS: list[Row] = [
    {"prompt": "a", "tag": "é"},
    {"prompt": 'b ]}\\" [', "tag": [1, {"x": "\n"}]},
    {"prompt": "c", "tag": None},
]
AS_READ = [{"index": n, "id": str(n), **row} for n, row in enumerate(ROWS)]


@pytest.mark.parametrize("name", ["in.json", "in.jsonl", "in.ndjson", "in.JSON"])
@pytest.mark.parametrize(
    "content",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2, ensure_ascii=False),
        "\ufeff\n  " + json.dumps(ROWS, indent=1).replace("\n", "\r\n") + "\n\n",
        "\n".join(json.dumps(row) for row in ROWS),
        "".join(json.dumps(row, indent=4) + "\n" for row in ROWS),
        "[\n" + ",\n".join(json.dumps(row) for row in ROWS) + "\n]\n",
    ],
    ids=["dump", "indent", "BOM and CRLF", "lines", "jq", "DuckDB"],
)
def test_arrays_and_lines_give_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert read_text(tmp_path, name, content) == (AS_READ, [])


def test_the_case_of_ndjson() -> None:
    assert read(INPUTS / "ndjson.ndjson") == ([{"index": 0, "id": "0", "prompt": "Hi"}], [])


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
def test_an_array_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(json_values, "_CHUNK", size)
    for content in (json.dumps(ROWS, ensure_ascii=False), "\ufeff" + json.dumps(ROWS, indent=2)):
        assert read_text(tmp_path, "in.json", content)[0] == AS_READ


def test_an_array_of_openai_requests(tmp_path: Path) -> None:
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    (row,), _ = read_text(
        tmp_path, "in.json", json.dumps([{"custom_id": "a", "url": "/v1/chat/completions", "body": body}])
    )
    assert (row["batch"]["custom_id"], row["messages"]) == ("a", body["messages"])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[{"prompt": "a"}, {"prompt": 3}]', "in.json:1: item 2: 'prompt' must be"),
        ('[\n{"prompt": "a"},\n\n{"prompt": 3}]', "in.json:4: item 2: 'prompt' must be"),
        ('[{"prompt": "a"} {"prompt": "b"}]', "in.json:1: item 1: not valid JSON: ',' or ']' expected after it"),
        ('[{"prompt": "a"},]', "in.json:1: item 2: not valid JSON"),
        ('[{"prompt": "a"}', "the file ends within the array: is it complete?"),
        ('[{"prompt": "a"}, {"prompt": "b', "item 2: not valid JSON"),
        ('[{"prompt": "a"}] x', "something follows the array: remove it"),
        ("[", "the file ends within the array"),
        ("[]", "has no prompt"),
        ('["a"]', "in.json:1: item 1: a row must be a JSON object with 'prompt' or 'messages': write {"),
        ("[1, 2]", "item 1: a row must be a JSON object"),
        ('[{"prompt": nope}]', "in.json:1: item 1: not valid JSON"),
        ('[{"prompt": "a", "tag": ' + "[" * 100_000, "item 1: not valid JSON"),
        ('[{"prompt": "a", "tag": ' + "9" * 5000 + "}]", "item 1: not valid JSON"),
        ('[{"prompt": "a", "prompt": "b"}]', "'prompt' appears twice"),
        ('[{"prompt": NaN}]', "item 1: 'prompt' contains NaN"),
        ('[{"prompt": "a", "id": 1}, {"prompt": "a", "id": 1}]', "id 1 was given before"),
        (b'[{"prompt": "\xe4"}]', "not UTF-8"),
        ('{\n"data": [{"prompt": "a"}]\n}', "item 1: a row needs either 'prompt' or 'messages', this one has 'data'"),
        ('{\n"prompt": {"0": "a", "1": "b"}\n}', "orient='records', lines=True"),
        ('{"prompt": {"0": "a", "1": "b"}}', "orient='records', lines=True"),
        ("3", "in.json:1: a row must be a JSON object"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_json_that_holds_no_rows_for_us_is_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    assert said in refusal(tmp_path, "in.json", content)


def test_a_value_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "MAX_LINE", 1 << 16)
    said = refusal(tmp_path, "in.json", '[{"prompt": "' + "x" * (1 << 20))
    assert "in.json:1: item 1: not valid JSON: Unterminated string" in said


@pytest.mark.trust
@pytest.mark.parametrize(
    "head",
    [
        pytest.param(["prompt", *(f"c{number}" for number in range(50_000))], id="names"),
        pytest.param(["prompt", *[""] * 50_000], id="without names"),
        pytest.param(["", *(f"Unnamed: 0.{n}" for n in range(50_000)), "Unnamed: 0", "prompt"], id="as pandas names"),
        pytest.param(["prompt", *(f"c{number}" for number in range(50_000)), "c49999"], id="the last one twice"),
        pytest.param([f"c{number}" for number in range(50_000)], id="no prompt"),
    ],
)
def test_a_table_of_many_columns_is_read_or_refused_soon(tmp_path: Path, head: list[str]) -> None:
    """It took a minute: each name was looked for among all."""
    lines = [head, ["x" if name else "" for name in head]]
    began = time.process_time()
    with suppress(InputError):
        read_text(tmp_path, "in.csv", "".join(",".join(line) + "\n" for line in lines))
    assert time.process_time() - began < 10
