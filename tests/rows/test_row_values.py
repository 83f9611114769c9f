"""Values of rows as tables and other programs write them: numbers, JSON as text, ids, bytes, and what is not there."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.read import checked_rows, find_sources
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, carried_fields
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

HI = [{"role": "user", "content": "Hi"}]


def read(folder: Path, name: str, content: Any, **options: Any) -> tuple[list[Row], list[str]]:
    """Rows and notes of a file: text as it is, columns as Parquet, a list as lines of JSON."""
    file = folder / name
    if isinstance(content, dict):
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pa.table(content), file)
    elif isinstance(content, list):
        file.write_text("".join(json.dumps(row) + "\n" for row in content))
    else:
        file.write_text(content)
    source = find_sources(str(file), Reading(**options))
    return list(checked_rows(source)), source.row_notes.lines()


def refusal(folder: Path, name: str, content: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        read(folder, name, content, **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# -- numbers ---------------------------------------------------------------------------------------------------------
def test_decimals_are_numbers_where_numbers_are_meant(tmp_path: Path) -> None:
    """As DuckDB writes 0.7 and 5; what is only copied keeps its digits."""
    sampling = {"temperature": Decimal("0.7"), "max_tokens": Decimal(5), "top_k": 5.0, "seed": None}
    given = {"prompt": ["a"], "id": [Decimal(7)], "price": [Decimal("1.50")], "sampling": [sampling]}
    (row,), _ = read(tmp_path, "in.parquet", given)
    assert row["sampling"] == {"temperature": 0.7, "max_tokens": 5, "top_k": 5}
    assert [type(value) for value in row["sampling"].values()] == [float, int, int]
    assert (row["id"], row["price"]) == (7, "1.50")


def test_a_decimal_of_many_digits_is_read(tmp_path: Path) -> None:
    (row,), _ = read(tmp_path, "in.parquet", {"prompt": ["a"], "id": [Decimal(10**37)]})
    assert row["id"] == 10**37
    assert "'id' must be" in refusal(tmp_path, "in.parquet", {"prompt": ["a"], "id": [Decimal("1.5")]})


WHOLE = {
    "n": 2.0, "top_k": 5.0, "seed": 1.0, "max_tokens": 1.0, "min_tokens": 1.0, "logprobs": 0.0, "prompt_logprobs": 2.0,
    "max_completion_tokens": 3.0, "top_logprobs": 2.0, "truncate_prompt_tokens": -1.0, "stop_token_ids": [1.0, 2],
    "allowed_token_ids": [3.0], "thinking_token_budget": 4.0, "dimensions": 8.0,
}  # fmt: skip


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_number_with_a_point_is_one_in_sampling(tmp_path: Path, name: str) -> None:
    (row,), _ = read(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": {name: WHOLE[name]}}])
    found = row["sampling"][name]
    assert found == WHOLE[name]
    assert {type(one) for one in (found if isinstance(found, list) else [found])} == {int}


def test_other_numbers_stay(tmp_path: Path) -> None:
    sampling = {"temperature": 1.0, "max_tokens": 1.5, "top_k": 1e300, "ignore_eos": True, "stop": ["1.0"]}
    (row, _), _ = read(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": sampling}, {"prompt": "a"}])
    assert list(map(repr, row["sampling"].values())) == list(map(repr, sampling.values()))


def test_a_body_and_token_ids_have_whole_numbers_too(tmp_path: Path) -> None:
    body = {"messages": HI, "max_tokens": 5.0, "top_k": 3.0}
    (row,), _ = read(tmp_path, "in.jsonl", [{"custom_id": "a", "url": "/v1/chat/completions", "body": body}])
    assert repr(row["sampling"]["max_tokens"]) == "5"
    (row,), _ = read(tmp_path, "in.parquet", {"prompt": [[1.0, 2.0]]})
    assert repr(row["prompt"]) == "[1, 2]"
    assert "'prompt' must be a string or a list" in refusal(tmp_path, "in.parquet", {"prompt": [[1.0, None]]})


@pytest.mark.parametrize("number", ["1e400", "-1e999", "1" + "0" * 400 + ".5", "1" + "0" * 5000])
def test_a_number_beyond_a_double_is_called_so(tmp_path: Path, number: str) -> None:
    words = refusal(tmp_path, "in.jsonl", f'{{"prompt": "a", "x": [{number}]}}\n')
    assert f"in.jsonl:1: not valid JSON: the number {number[:20]}" in words
    assert "write it in quotes" in words
    assert len(words) < 300 + len(str(tmp_path))


# -- names in sampling -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("guided_choice", 'use structured_outputs={"choice":'),
        ("guided_json", 'use structured_outputs={"json":'),
        ("guided_regex", 'use structured_outputs={"regex":'),
        ("stream", "leave it out"),
        ("best_of", "use n"),
        ("max_new_tokens", "use max_tokens"),
        ("tools", "as a field of the row"),
        ("reasoning_effort", "chat_template_kwargs"),
    ],
)
def test_a_name_of_servers_is_refused_with_what_to_use(tmp_path: Path, name: str, said: str) -> None:
    words = refusal(tmp_path, "in.jsonl", [{"prompt": "a"}, {"prompt": "a", "sampling": {name: 1}}])
    assert f"in.jsonl:2: 'sampling': vLLM's SamplingParams has no {name!r}: " in words
    assert said in words
    (row,), _ = read(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": {name: None}}])
    assert row["sampling"] == {name: None}, "a null is not given"


def test_names_that_are_translated_are_read(tmp_path: Path) -> None:
    sampling = {"response_format": {"type": "json_object"}, "max_completion_tokens": 3, "structured_outputs": {}}
    (row,), _ = read(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": sampling}])
    assert row["sampling"] == sampling


# -- JSON as text ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_json_text_is_read_alike_in_every_format(tmp_path: Path, suffix: str) -> None:
    """pandas' to_json after read_csv has text where the objects were."""
    row = {"messages": json.dumps(HI), "sampling": '{"max_tokens": 3.0}', "tools": "[]", "note": "[1]"}
    if suffix == "csv":
        quoted = ['"' + value.replace('"', '""') + '"' for value in row.values()]
        content: Any = f"{','.join(row)}\n{','.join(quoted)}\n"
    else:
        content = {name: [value] for name, value in row.items()} if suffix == "parquet" else [row]
    (found,), _ = read(tmp_path, f"in.{suffix}", content)
    expected = {"messages": HI, "sampling": {"max_tokens": 3}, "tools": [], "note": "[1]"}
    assert found == {"index": 0, "id": "0", **expected}


def test_sharegpts_text_is_read_and_a_copied_text_is_not(tmp_path: Path) -> None:
    turns = json.dumps([{"from": "human", "value": "Hi"}])
    (row,), _ = read(tmp_path, "in.jsonl", [{"conversations": turns}])
    assert row["messages"] == HI
    (row,), _ = read(tmp_path, "in.jsonl", [{"q": "a", "messages": json.dumps(HI)}], prompt_column="q")
    assert carried_fields(row) == {"in_messages": json.dumps(HI)}


def test_text_that_is_not_json_is_refused(tmp_path: Path) -> None:
    assert "'messages': not valid JSON" in refusal(tmp_path, "in.jsonl", [{"messages": "[{"}])
    assert "'sampling' must be an object" in refusal(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": "greedy"}])
    assert "'sampling' contains NaN" in refusal(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": '{"top_p": NaN}'}])


OF_STR = "it was written by Python's str(): write it with json.dumps"


def test_what_python_str_wrote_is_called_so(tmp_path: Path) -> None:
    assert OF_STR in refusal(tmp_path, "in.jsonl", [{"messages": str(HI)}])
    assert OF_STR in refusal(tmp_path, "in.jsonl", [{"prompt": "a", "sampling": str({"stop": ["a"]})}])
    assert OF_STR in refusal(tmp_path, "in.csv", f'messages\n"{HI}"\n')
    assert OF_STR in refusal(tmp_path, "in.jsonl", "['a', 'b']\n")
    assert OF_STR in refusal(tmp_path, "in.json", str([{"prompt": "a"}]))


LISTS = [str(HI), json.dumps(HI), '[{"from": "human", "value": "Hi"}]', "['a', 'b']", '["a"]', "[504, 3575]", "[1 2 3]"]


@pytest.mark.parametrize("text", LISTS)
def test_a_list_as_text_is_said_once(tmp_path: Path, text: str) -> None:
    (row, _), (note,) = read(tmp_path, "in.jsonl", [{"prompt": text}, {"prompt": text}])
    assert row["prompt"] == text
    assert note.startswith("2 rows: 'prompt' looks like a list that was written as text")
    others = ["[1] is a list. {'role': 1}", "['a'] and", "[x]", "[INST] Hi", "[]", "a ['b']"]
    assert read(tmp_path, "in.jsonl", [{"prompt": other} for other in others])[1] == []


def test_several_texts_have_advice(tmp_path: Path) -> None:
    assert "list of token ids: write one row for each text" in refusal(tmp_path, "in.jsonl", [{"prompt": ["a", "b"]}])


# -- ids -------------------------------------------------------------------------------------------------------------
def test_ids_of_a_column_with_a_gap_are_those_of_one_without(tmp_path: Path) -> None:
    rows, (note,) = read(tmp_path, "in.csv", "id;prompt\n11.0;a\n12;b\n;c\n14,0;d\n")
    assert [row["id"] for row in rows] == ["11", "12", "2", "14"]
    begin = "2 rows: ids that end in .0, as pandas writes them beside a gap, are read without it"
    assert note == f"{begin}: 11.0 as '11', 14,0 as '14' (the first: {tmp_path / 'in.csv'}:2)"


def test_one_id_of_a_csv_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    assert "in.csv:3: id '7' was given before" in refusal(tmp_path, "in.csv", "id,prompt\n7,b\n7.0,c\n")
    words = refusal(tmp_path, "in.csv", "id,prompt\n1.0,a\n2.0,b\n,c\n4.0,d\n")
    assert "in.csv:4: id '2' was given before, or is that of a row without one, which is its number" in words


def test_other_ids_of_a_csv_stay_text(tmp_path: Path) -> None:
    ids = ["7", "007.0", "1.00", "2.5", "1e3", "-0.0", "9" * 17 + ".0", "v1.0"]
    rows, notes = read(tmp_path, "in.csv", "id,prompt\n" + "".join(f"{one},a\n" for one in ids))
    assert ([row["id"] for row in rows], notes) == (ids, [])


def test_a_clash_with_a_default_id_is_explained(tmp_path: Path) -> None:
    words = refusal(tmp_path, "in.jsonl", [{"prompt": "a", "id": "1"}, {"prompt": "b"}])
    assert "in.jsonl:2: id '1' was given before, or is that of a row without one, which is its number" in words
    words = refusal(tmp_path, "in.jsonl", [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "x"}])
    first = f"(the first: {tmp_path / 'in.jsonl'}:1)"
    assert words.endswith(f"in.jsonl:2: id 'x' was given before: ids must differ: give every row one, or none {first}")


# -- prompts that are not there --------------------------------------------------------------------------------------
EMPTY = "its 'prompt' is null or empty: fill it in, or remove the row"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.jsonl", [{"prompt": "a"}, {"prompt": None, "text": "b"}]),
        ("in.csv", "prompt,text\na,b\n,c\n"),
        ("in.parquet", {"prompt": ["a", None], "text": ["b", "c"]}),
    ],
)
def test_an_empty_prompt_is_called_so(tmp_path: Path, name: str, content: Any) -> None:
    assert EMPTY in refusal(tmp_path, name, content)
    words = refusal(tmp_path, name, content, rename={"prompt": "q"}, prompt_column="q")
    assert "the row has no 'q' (--prompt-column): it is null or empty" in words


def test_an_empty_chat_is_called_so(tmp_path: Path) -> None:
    assert "must be a list of messages, not an empty one" in refusal(tmp_path, "in.jsonl", [{"messages": []}])


@pytest.mark.parametrize("name", ["prompt_token_ids", "input_ids", "tokens"])
def test_token_ids_under_another_name_have_advice(tmp_path: Path, name: str) -> None:
    words = refusal(tmp_path, "in.jsonl", [{name: [1, 2]}])
    assert f"'prompt' may be token ids: use --rename {name}=prompt" in words
    (row,), _ = read(tmp_path, "in.jsonl", [{name: [1, 2]}], rename={name: "prompt"})
    assert row["prompt"] == [1, 2]


@pytest.mark.parametrize(("name", "content"), [("in.jsonl", [{"text": "a"}]), ("in.csv", "text\na\n")])
def test_a_rename_that_finds_nothing_is_named(tmp_path: Path, name: str, content: Any) -> None:
    words = refusal(tmp_path, name, content, rename={"qestion": "prompt"})
    assert "no 'qestion' (--rename qestion=prompt), only 'text'" in words.replace("column ", "")


def test_a_rename_that_some_rows_lack_is_named_with_the_row(tmp_path: Path) -> None:
    words = refusal(tmp_path, "in.jsonl", [{"q": "a"}, {"text": "b"}], rename={"q": "prompt"})
    assert "in.jsonl:2: a row needs either 'prompt' or 'messages', and it has no 'q' (--rename q=prompt)" in words
    rows, _ = read(tmp_path, "in.jsonl", [{"prompt": "a", "l": 1}, {"prompt": "b"}], rename={"l": "label"})
    assert [carried_fields(row) for row in rows] == [{"label": 1}, {}]


# -- what JSON cannot express ----------------------------------------------------------------------------------------
def test_columns_that_json_cannot_express_are_left_out_and_said(tmp_path: Path) -> None:
    took = [datetime.timedelta(1)] * 2
    picture = [{"bytes": b"x", "path": "p"}] * 2
    rows, (note,) = read(
        tmp_path, "in.parquet", {"prompt": ["a", "b"], "tag": [1, 2], "picture": picture, "took": took}
    )
    assert [carried_fields(row) for row in rows] == [{"tag": 1}, {"tag": 2}]
    said = (
        "2 rows: columns that JSON cannot express are not copied to the output: 'picture' (bytes), 'took' (timedelta)"
    )
    assert note.startswith(said)


def test_a_template_cannot_write_bytes(tmp_path: Path) -> None:
    words = refusal(tmp_path, "in.parquet", {"a": ["x"], "b": [b"y"]}, prompt_template="{{ a }} {{ b }}")
    assert "row 1: column 'b' (bytes) is of a type that JSON cannot express: convert it" in words


# -- ShareGPT --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("who", ["gpt", "chatgpt", "gpt4", "bing", "bard"])
def test_answers_of_other_models_are_the_assistants(tmp_path: Path, who: str) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": who, "value": "Yes?"}, {"from": "user", "value": "Bye"}]
    (row,), _ = read(tmp_path, "in.jsonl", [{"conversations": turns}])
    assert [message["role"] for message in row["messages"]] == ["user", "assistant", "user"]


UNRUNNABLE: list[Any] = [
    [],
    None,
    [{"from": "narrator", "value": "x"}],
    [{"from": "human", "value": None}],
    [{"role": "user", "content": None}],
]


@pytest.mark.parametrize("turns", UNRUNNABLE, ids=str)
def test_turns_that_cannot_be_run_are_one_error_row(tmp_path: Path, turns: Any) -> None:
    """ShareGPT's own files have such rows; the others run."""
    right = {"conversations": [{"from": "human", "value": "Hi"}]}
    rows, (note,) = read(tmp_path, "in.jsonl", [right, {"id": "b", "lang": "en", "conversations": turns}, right])
    assert [row.get("messages") for row in rows] == [HI, None, HI]
    assert note.startswith("1 row cannot be run and becomes an error row: ")
    error = rows[1].pop("error")
    assert (error["type"], rows[1]) == ("UnreadableRowError", {"index": 1, "id": "b", "lang": "en"})
    assert "in.jsonl:2: " in error["message"]
    assert "(no other row can be run)" in refusal(tmp_path, "in.jsonl", [{"conversations": turns}])


def test_a_chat_of_answers_alone_is_an_error_row(tmp_path: Path) -> None:
    alone = {"conversations": [{"from": "gpt", "value": "Yes?"}], "lang": "en"}
    rows, notes = read(tmp_path, "in.jsonl", [{"messages": HI}, alone], drop_last_answer=True)
    assert (rows[0]["messages"], rows[1]["error"]["type"], rows[1]["lang"]) == (HI, "UnreadableRowError", "en")
    assert "in.jsonl:2: there are only turns of the assistant" in rows[1]["error"]["message"]
    assert notes[0].startswith("1 row cannot be run and becomes an error row: there are only turns")
