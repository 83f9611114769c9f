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


# -- messages --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_content.jsonl", "no_content.jsonl:1: message 1 ('user') has no 'content': write text or a list of parts"),
        (
            "parts_gemini.jsonl",
            ":1: message 1 ('user') has 'parts', as Gemini's have: write 'content'",
        ),
    ],
)
def test_a_turn_without_content_is_refused(name: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        case(name)
    assert said in str(caught.value)


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
# Each as vLLM 0.32 takes it: vllm/renderers/chat_utils.py and OpenAI's types.
TAKEN: list[Row] = [
    {"role": "user", "content": ""},
    {"role": "user", "content": "Hi", "name": "Ann"},
    {"role": "developer", "content": "Be brief.", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"role": "developer", "tools": [{"type": "function", "function": {"name": "f"}}]},
    {"role": "assistant", "content": "", "reasoning": "Hm."},
    {"role": "assistant", "reasoning": "Hm."},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "assistant", "tool_calls": [CALL]},
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}]},
    {"role": "function", "name": "f", "content": "1"},
    {"role": "critic", "content": "A role of the template's own."},
    {"role": "user", "content": ["plain", "texts"]},
    {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE]},
    {"role": "user", "content": [{"image_url": "http://x/y.png"}]},
    {"role": "user", "content": [{"type": "image_embeds", "image_embeds": None, "uuid": "u"}]},
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "AA", "format": "wav"}}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "closed": True}]},
    {"role": "user", "content": [{"type": "a part of tomorrow's vLLM"}]},
]


@pytest.mark.parametrize("message", TAKEN, ids=str)
def test_what_vllm_takes_is_taken(tmp_path: Path, message: Row) -> None:
    (row,) = lines(tmp_path, {"messages": [message]})
    (kept,) = row["messages"]
    assert kept == message
    (of_batch,) = lines(tmp_path, {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": [message]}})
    assert of_batch["messages"] == [kept]


def test_nulls_in_messages_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    """datasets.to_json writes every field of a struct; the arguments of a call are data."""
    call = {"id": None, "type": None, "function": {"name": "f", "arguments": {"city": None}, "strict": None}}
    part = {"type": "text", "text": "Hi", "image_url": None}
    image = {"type": "image_url", "text": None, "image_url": {"url": "u", "detail": None}}
    (row,) = lines(
        tmp_path,
        {
            "messages": [
                {"role": "user", "content": [part, image], "name": None, "tool_calls": None},
                {"role": "assistant", "content": None, "tool_calls": [call]},
            ]
        },
    )
    assert row["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "image_url", "image_url": {"url": "u"}}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": "f", "arguments": {"city": None}}}],
        },
    ]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": None}, "has no 'content'"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "has no 'content'"),
        ({"role": "assistant", "content": None, "refusal": "No."}, "has no 'content'"),
        ({"role": "user", "text": "Hi"}, "has no 'content'"),
        ({"role": "user", "Content": "Hi"}, "has no 'content'"),
        ({"role": "user", "content": 3}, "'content' must be text or a list of parts, not a number"),
        ({"role": "user", "content": 0.5}, "not a number"),
        ({"role": "user", "content": True}, "not true or false"),
        ({"role": "user", "content": {"type": "text", "text": "Hi"}}, "not an object"),
        ({"role": "user", "content": []}, "'content' is an empty list"),
        ({"role": "user", "content": [3]}, "part 1 of 'content' must be text or an object such as"),
        ({"role": "user", "content": ["a", None]}, "part 2 of 'content' must be text or an object such as"),
        ({"role": "user", "content": [["a"]]}, "not a list"),
        ({"role": "user", "content": [{"text": "Hi"}]}, "part 1 of 'content' must have a 'type'"),
        ({"role": "user", "content": [{"type": 3, "text": "Hi"}]}, "must have a 'type'"),
        ({"role": "user", "content": [{"type": "text", "content": "Hi"}]}, "its 'text' must be text"),
        ({"role": "user", "content": [{"type": "text", "text": None}]}, "its 'text' must be text"),
        ({"role": "user", "content": [{"type": "text", "text": {"value": "Hi"}}]}, "its 'text' must be text"),
        ({"role": "assistant", "content": [{"type": "refusal", "text": "No."}]}, "its 'refusal' must be text"),
    ],
    ids=str,
)
def test_what_vllm_would_read_as_an_empty_turn_is_refused(tmp_path: Path, message: Row, said: str) -> None:
    words = refusal(tmp_path, {"messages": HI}, {"messages": [*HI, message]})
    assert "in.jsonl:2: message 2 (" in words
    assert said in words
    body = {"custom_id": "a", "url": "/v1/chat/completions", "body": {"messages": [message]}}
    assert "in.jsonl:1: message 1 (" in refusal(tmp_path, body)
