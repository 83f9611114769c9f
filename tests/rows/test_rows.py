"""Rows in: every file that people have, read or refused with file and line; and rows that were torn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.row import (
    INPUT_FIELDS,
    OUTPUT_FIELDS,
    SAMPLE_PROMPTS,
    Row,
    carried_fields,
    error_row,
    iter_jsonl,
    write_rows,
)
from vllm_hpc.spec.errors import InputError


def read(folder: Path, content: str | bytes, name: str = "in.jsonl") -> list[Row]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(path)))


def test_without_an_input_there_are_sample_prompts() -> None:
    assert [row["prompt"] for row in read_rows(None)] == list(SAMPLE_PROMPTS)
    assert [(row["index"], row["id"]) for row in read_rows(None)] == [(0, "0"), (1, "1")]


def test_rows_are_normalised_in_order(tmp_path: Path) -> None:
    rows = read(
        tmp_path,
        '{"prompt": "a"}\n{"id": "x", "prompt": [1, 2]}\n{"id": 7, "messages": [{"role": "user", "content": "c"}]}\n',
    )
    assert rows == [
        {"index": 0, "id": "0", "prompt": "a"},
        {"index": 1, "id": "x", "prompt": [1, 2]},
        {"index": 2, "id": 7, "messages": [{"role": "user", "content": "c"}]},
    ]


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a"}\n{"prompt": "b"}\n',
        b'{"prompt": "a"}\n{"prompt": "b"}',
        b'\xef\xbb\xbf{"prompt": "a"}\r\n{"prompt": "b"}\r\n',
        b'\n{"prompt": "a"}\n\n  \n\r\n{"prompt": "b"}\n\n',
    ],
    ids=["plain", "no last newline", "BOM and CRLF", "blank lines"],
)
def test_files_of_every_editor_give_the_same_rows(tmp_path: Path, content: bytes) -> None:
    assert [(row["index"], row["prompt"]) for row in read(tmp_path, content)] == [(0, "a"), (1, "b")]


@pytest.mark.parametrize("suffix", ["in.txt", "in.TXT"])
def test_a_text_file_is_a_prompt_a_line(tmp_path: Path, suffix: str) -> None:
    rows = read(tmp_path, '\ufeffone \r\n\n  {"prompt": 2}\nthree\x00\u2028four\n', suffix)
    assert [row["prompt"] for row in rows] == ["one ", '  {"prompt": 2}', "three\x00\u2028four"]


def test_a_jsonl_may_be_called_in_capitals(tmp_path: Path) -> None:
    assert len(read(tmp_path, '{"prompt": "a"}\n', "IN.JSONL")) == 1


def test_other_fields_are_carried_through(tmp_path: Path) -> None:
    nested = {"a": [1, {"b": None}], "é": 1.5}
    (row,) = read(tmp_path, json.dumps({"prompt": "p", "sampling": {"n": 2}, "tag": nested, "label": True}))
    assert carried_fields(row) == {"tag": nested, "label": True}
    assert error_row(row, "missing", "words") == {
        "index": 0, "id": "0", "error": {"type": "missing", "message": "words"}, "tag": nested, "label": True,
    }  # fmt: skip


REFUSED = [
    ('{"prompt": "a"}\n{"prompt": "b"\n', 2, "not valid JSON"),
    ('{"prompt": "a"}\n\n\nhello\n', 4, "not valid JSON"),
    ('{"prompt": "a\x00"}\n', 1, "not valid JSON"),
    ('{"prompt": NaN}\n', 1, "'prompt' contains NaN"),
    ('{"prompt": "a"} {"prompt": "b"}\n', 1, "not valid JSON"),
    ("[" * 100_000 + "\n", 1, "not valid JSON"),
    ('{"prompt": "\\ud800"}\n', 1, "half of a surrogate pair"),
    (b'{"prompt": "a"}\n{"prompt": "\xe9"}\n', 2, "not UTF-8"),
    ('{"prompt": "a"}\n'.encode("utf-16"), 1, "not UTF-8"),
    ('["prompt"]\n', 1, "a row must be a JSON object"),
    ("3\n", 1, "a row must be a JSON object"),
    ("null\n", 1, "a row must be a JSON object"),
    ('{"text_in": "a"}\n', 1, "either 'prompt' or 'messages'"),
    ('{"prompt": "a", "messages": []}\n', 1, "either 'prompt' or 'messages'"),
    ('{"prompt": 3}\n', 1, "'prompt' must be"),
    ('{"prompt": null}\n', 1, "a row needs either"),
    ('{"prompt": ["a"]}\n', 1, "'prompt' must be"),
    ('{"prompt": [1, true]}\n', 1, "'prompt' must be"),
    ('{"prompt": [1, 2.5]}\n', 1, "'prompt' must be"),
    ('{"messages": []}\n', 1, "'messages' must be"),
    ('{"messages": "hello"}\n', 1, "'messages' must be"),
    ('{"messages": ["hello"]}\n', 1, "every message"),
    ('{"messages": [{"content": "a"}]}\n', 1, "every message"),
    ('{"prompt": "a", "id": true}\n', 1, "'id' must be"),
    ('{"prompt": "a", "id": 1.5}\n', 1, "'id' must be"),
    ('{"prompt": "a", "id": []}\n', 1, "'id' must be"),
    ('{"prompt": "a", "sampling": 3}\n', 1, "'sampling' must be"),
    ('{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', 2, "'x' was given before"),
    ('{"prompt": "a", "id": "1"}\n{"prompt": "b"}\n', 2, "'1' was given before"),
    ('{"prompt": "a", "id": 7}\n{"prompt": "b", "id": 7}\n', 2, "7 was given before"),
]


@pytest.mark.parametrize(("content", "line", "said"), REFUSED, ids=lambda value: repr(value)[:40])
def test_a_wrong_row_is_refused_with_file_and_line(tmp_path: Path, content: str | bytes, line: int, said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        read(tmp_path, content)
    assert f"in.jsonl:{line}: " in str(caught.value)


@pytest.mark.parametrize("field", sorted(OUTPUT_FIELDS))
def test_a_field_that_the_output_has_is_carried_under_another_name(tmp_path: Path, field: str) -> None:
    (row,) = read(tmp_path, json.dumps({"prompt": "a", field: 1}))
    assert carried_fields(row) == {f"in_{field}": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": "a", "tag": 2**64 - 1},
        {"prompt": "a", "tag": 10**40},
        {"prompt": "a", "tag": -(10**40)},
        {"prompt": "a", "id": 10**40},
        {"prompt": [10**40]},
        {"prompt": "a", "sampling": {"seed": 10**40}},
    ],
    ids=str,
)
def test_a_huge_integer_survives_or_is_refused_with_its_line(tmp_path: Path, fields: Row) -> None:
    """What was checked can be written: nothing may fail later, when the folder is half made."""
    try:
        rows = read(tmp_path, json.dumps(fields))
    except InputError as error:
        assert "in.jsonl:1: " in str(error)
        return
    write_rows(rows, tmp_path / "out.jsonl")
    (back,) = iter_jsonl(tmp_path / "out.jsonl")
    assert {key: back[key] for key in fields} == fields


@pytest.mark.parametrize("depth", [50, 500, 900, 980, 995, 1500, 20_000])
def test_a_nested_field_survives_or_is_refused_with_its_line(tmp_path: Path, depth: int) -> None:
    tag = "[" * depth + "]" * depth
    try:
        rows = read(tmp_path, f'{{"prompt": "a", "tag": {tag}}}')
    except InputError as error:
        assert "in.jsonl:1: " in str(error)
        assert depth > 100
        return
    write_rows(rows, tmp_path / "out.jsonl")
    assert tag in (tmp_path / "out.jsonl").read_text()


@pytest.mark.parametrize(("name", "content"), [("in.jsonl", ""), ("in.jsonl", "\n \r\n"), ("in.txt", "\ufeff\n")])
def test_an_input_without_a_row_is_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(InputError, match="has no prompt"):
        read(tmp_path, content, name)


def test_what_is_no_input_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "in.xlsx").write_text("x")
    for name, said in (
        ("none.jsonl", "no such input"),
        ("folder.jsonl", "is a folder"),
        ("in.xlsx", r"can be read, and these but Parquet also compressed \(\.gz, \.zst, \.bz2, \.xz\): convert it"),
    ):
        with pytest.raises(InputError, match=said):
            list(read_rows(str(tmp_path / name)))


def test_the_rows_before_a_wrong_one_do_not_hide_it(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "a"}\n' * 500 + "{\n")
    with pytest.raises(InputError, match=r"in\.jsonl:501: "):
        list(read_rows(str(path)))


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
carried = st.dictionaries(st.text().filter(lambda key: key not in INPUT_FIELDS | OUTPUT_FIELDS), values, max_size=4)


@given(fields=st.lists(st.tuples(st.text(), carried), min_size=1, max_size=4))
def test_what_is_read_and_written_is_what_was_there(
    tmp_path_factory: pytest.TempPathFactory, fields: list[tuple[str, dict[str, Any]]]
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    given_rows = [{"prompt": prompt, **more} for prompt, more in fields]
    rows = read(folder, "".join(json.dumps(row) + "\n" for row in given_rows))
    assert write_rows(rows, folder / "out.jsonl") == len(given_rows)
    back = list(iter_jsonl(folder / "out.jsonl"))
    assert back == [{"index": n, "id": str(n), **row} for n, row in enumerate(given_rows)]


@pytest.mark.parametrize("torn", ["", "{", '{"index": 1}', '{"index": 1, "text": "\u00e9'])
def test_a_torn_last_line_is_no_row(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_text('{"index": 0}\n' + torn)
    assert list(iter_jsonl(path)) == [{"index": 0}]


def test_a_line_torn_inside_a_character_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "shard.jsonl"
    path.write_bytes('{"index": 0}\n{"text": "é'.encode()[:-1])
    assert list(iter_jsonl(path)) == [{"index": 0}]
