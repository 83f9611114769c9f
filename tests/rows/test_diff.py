"""Two output rows side by side: where they first differ."""

from __future__ import annotations

from typing import Any

import pytest

from vllm_hpc.rows.diff import ANSWER_FIELDS, answer_of, compare_answers

pytestmark = pytest.mark.programs


def found(first: Any, second: Any, tokenize: Any = None) -> tuple[Any, ...] | None:
    where = compare_answers(first, second, ANSWER_FIELDS, tokenize)
    if where is None:
        return None
    return (where.field, where.character, where.word, where.token, where.first, where.second)


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ("the same", "the same", None),
        ("the same", "the sane", ("text", 6, 2, None, '"the same"', '"the sane"')),
        ("the", "the end", ("text", 3, 1, None, '"the"', '"the end"')),
        ("", "x", ("text", 0, 1, None, '""', '"x"')),
        ("a  b c", "a  b d", ("text", 5, 3, None, '"a  b c"', '"a  b d"')),
        (
            "x" * 70 + "a" + "y" * 90,
            "x" * 70 + "b",
            ("text", 70, 1, None, f'"{"x" * 20}a{"y" * 39}"', f'"{"x" * 20}b"'),
        ),
        ("é\U0001f600a", "é\U0001f600b", ("text", 2, 1, None, '"é\U0001f600a"', '"é\U0001f600b"')),
        (None, "x", ("text", None, None, None, "null", '"x"')),
        (["x"], {"y": 1}, ("text", None, None, None, '["x"]', '{"y":1}')),
    ],
)
def test_the_first_difference_of_texts(first: Any, second: Any, where: Any) -> None:
    assert found({"text": first}, {"text": second}) == where


def test_every_place_is_found_as_character_by_character() -> None:
    for size in range(1, 40):
        for place in range(size):
            text = "ab " * 13
            one = text[:size]
            other = one[:place] + "!" + one[place + 1 :]
            assert (found({"text": one}, {"text": other}) or ())[1] == place


def test_sampled_tokens_where_both_rows_have_them() -> None:
    def row(text: str, *ids: int) -> dict[str, Any]:
        return {"text": text, "logprobs": [{"token": "x", "token_id": one} for one in ids]}

    assert (found(row("ab", 1, 2), row("ac", 1, 3)) or ())[3] == 2
    assert (found(row("ab", 1, 2), row("ab ", 1, 2, 3)) or ())[3] == 3
    assert (found(row("ab", 1, 2), {"text": "ac"}) or ())[3] is None
    assert (found({"text": "ab"}, {"text": "ac"}, tokenize=list) or ())[3] == 2


def test_other_fields_follow_the_text() -> None:
    where = found({"text": "a", "finish_reason": "stop"}, {"text": "a", "finish_reason": "length"})
    assert where == ("finish_reason", None, None, None, '"stop"', '"length"')
    assert (found({"embedding": [1.0, 2.0]}, {"embedding": [1.0, 2.5]}) or ())[0] == "embedding"
    assert found({"text": "a", "replica": 0, "completion_tokens": 3}, {"text": "a", "replica": 1}) is None


@pytest.mark.parametrize(
    ("first", "second", "where"),
    [
        ([{"text": "a"}, {"text": "b c"}], [{"text": "a"}, {"text": "b d"}], ("outputs[1].text", 2, 2)),
        ([{"text": "a"}], [{"text": "a"}, {"text": "b"}], ("outputs", None, None)),
        ([{"text": "a", "x": 1}], [{"text": "a", "x": 2}], ("outputs[0].x", None, None)),
        ([3], [{"text": "b"}], ("outputs[0]", None, None)),
    ],
)
def test_several_outputs_one_by_one(first: Any, second: Any, where: Any) -> None:
    assert (found({"outputs": first}, {"outputs": second}) or ())[:3] == where


def line(body: Any, error: Any = None) -> dict[str, Any]:
    return {"id": "batch_req_1", "custom_id": "c", "response": {"status_code": 200, "body": body}, "error": error}


def test_lines_of_an_openai_batch_are_read_as_rows() -> None:
    chat = {
        "index": 0,
        "message": {"content": "hi", "tool_calls": [1]},
        "finish_reason": "stop",
        "logprobs": {"content": [{"token": "h"}]},
    }
    assert answer_of(line({"choices": [chat], "usage": {"prompt_tokens": 3, "total_tokens": 4}})) == {
        "id": "c", "text": "hi", "tool_calls": [1], "finish_reason": "stop", "logprobs": [{"token": "h"}],
        "prompt_tokens": 3,
    }  # fmt: skip
    text = {"text": "a", "finish_reason": "length", "logprobs": {"tokens": ["a"]}}
    assert answer_of(line({"choices": [text]}))["logprobs"] == [{"token": "a"}]
    assert [one["text"] for one in answer_of(line({"choices": [text, text]}))["outputs"]] == ["a", "a"]
    assert answer_of(line({"data": [{"embedding": [1]}]}))["embedding"] == [1]
    assert answer_of(line({"error": {"message": "no", "code": 400}})) == {
        "id": "c",
        "error": {"type": "400", "message": "no"},
    }
    assert answer_of(line(None, {"code": "missing", "message": "m"}))["error"]["type"] == "missing"
    assert "error" in answer_of(line(None, "odd"))


@pytest.mark.parametrize(
    "body", [None, 3, [], {"choices": 3}, {"choices": [3]}, {"choices": [{"message": 3}]}, {"data": [3]}, {"usage": 3}]
)
def test_a_line_of_another_shape_is_no_error(body: Any) -> None:
    assert answer_of(line(body))["id"] == "c"
