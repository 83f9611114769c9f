"""Input files as people have them, re-made after public reports in tests/inputs, and others of their kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

INPUTS = Path(__file__).parents[1] / "inputs"


def case(name: str) -> list[Row]:
    return list(read_rows(str(INPUTS / name)))


def lines(folder: Path, *rows: Any) -> list[Row]:
    """What is read from a .jsonl with these rows; a string is a line as it is."""
    file = folder / "in.jsonl"
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file.write_text(text, encoding="utf-8")
    return list(read_rows(str(file)))


def refusal(folder: Path, *rows: Any) -> str:
    with pytest.raises(InputError) as caught:
        lines(folder, *rows)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


HI = [{"role": "user", "content": "Hi"}]


# -- null ------------------------------------------------------------------------------------------------------------
def test_a_null_field_is_one_that_is_not_there() -> None:
    """As datasets.to_json and pandas write a column that only some rows have."""
    assert case("hf_nulls.jsonl") == [{"index": 0, "id": "a", "prompt": "x", "lora": None}]
    assert case("null_sampling.jsonl") == [{"index": 0, "id": "0", "prompt": "Hi"}]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"id": None, "prompt": "x"}, {"id": "0", "prompt": "x"}),
        ({"prompt": None, "messages": HI}, {"messages": HI}),
        ({"prompt": "x", "task": None, "chat_template_kwargs": None}, {"prompt": "x"}),
        ({"prompt": "x", "score": None, "nested": {"a": None}}, {"prompt": "x", "score": None, "nested": {"a": None}}),
        ({"prompt": "x", "sampling": {"max_tokens": None}}, {"prompt": "x", "sampling": {"max_tokens": None}}),
    ],
    ids=str,
)  # fmt: skip
def test_a_null_has_no_meaning_but_in_data(tmp_path: Path, given: Row, expected: Row) -> None:
    assert lines(tmp_path, given) == [{"index": 0, "id": "0", **expected}]


def test_a_row_of_nulls_has_no_prompt(tmp_path: Path) -> None:
    assert "in.jsonl:2: a row needs either 'prompt'" in refusal(
        tmp_path, {"prompt": "a"}, {"prompt": None, "tag": None}
    )


# -- ids -------------------------------------------------------------------------------------------------------------
def test_a_whole_number_with_a_point_is_that_number() -> None:
    """pandas writes integers so if a column has a gap."""
    assert [(row["id"], type(row["id"])) for row in case("float_id.jsonl")] == [(1, int), (2, int)]


@pytest.mark.parametrize(("given", "expected"), [("1e3", 1000), ("-0.0", 0), ("9007199254740992.0", 2**53)])
def test_an_id_is_the_number_that_was_meant(tmp_path: Path, given: str, expected: int) -> None:
    (row,) = lines(tmp_path, '{"prompt": "a", "id": ' + given + "}")
    assert (row["id"], type(row["id"])) == (expected, int)


@pytest.mark.parametrize("given", ["1.5", "9007199254740994.0", "1e300", "true", "[]", "{}"])
def test_an_id_that_may_be_another_is_refused(tmp_path: Path, given: str) -> None:
    assert "in.jsonl:1: 'id' must be" in refusal(tmp_path, '{"prompt": "a", "id": ' + given + "}")


def test_the_same_number_is_the_same_id(tmp_path: Path) -> None:
    assert "id 1 was given before" in refusal(tmp_path, {"prompt": "a", "id": 1}, {"prompt": "b", "id": 1.0})
