"""Rows out of outputs that are made up here: what vLLM gives seldom, or only with other models."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rows.row_out import answer, failure
from vllm_hpc.engine.rows.tool_calls import Answer, settled_id
from vllm_hpc.rows.row import Row

ROW: Row = {"index": 3, "id": "a", "messages": [{"role": "user", "content": "why?"}], "tag": 1}


def output(text: str = "yes", reason: str = "stop", **more: Any) -> Any:
    one = SimpleNamespace(text=text, finish_reason=reason, stop_reason=None, token_ids=[7, 8], logprobs=None)
    one.__dict__.update(more)
    return SimpleNamespace(outputs=[one], prompt_token_ids=[1], prompt_logprobs=None)


def ready(row: Row = ROW, split: Any = None, **params: Any) -> Any:
    given = {"n": 1, "logprobs": None, "logprob_token_ids": None, **params}
    return Ready(row, None, SimpleNamespace(**given), split=split, created=1)


def splitter(name: str) -> Any:
    pytest.importorskip("vllm")
    from vllm_hpc.engine.rows.reasoning import ReasoningSplit

    vocabulary = {"<think>": 1, "</think>": 2}
    tokenizer = SimpleNamespace(get_vocab=lambda: vocabulary, all_special_ids=[], encode=lambda text, **_: [])
    return ReasoningSplit(name, tokenizer)


@pytest.mark.vllm
@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [("<think>because</think>yes", "because", "yes"), ("because</think>yes", "because", "yes"), ("hm", "hm", "")],
)
def test_reasoning_is_taken_off(text: str, reasoning: str, content: str) -> None:
    row = answer(ready(split=splitter("deepseek_r1")), output(text), 0)
    assert (row["reasoning"], row["text"], row["tag"]) == (reasoning, content, 1)


@pytest.mark.vllm
def test_reasoning_in_a_batch_line() -> None:
    row = {**ROW, "batch": {"custom_id": "c", "url": "/v1/chat/completions", "model": "m"}}
    line = answer(ready(row, splitter("deepseek_r1")), output("<think>because</think>yes"), 0)["line"]
    message = line["response"]["body"]["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == ("yes", "because")


def test_a_parser_that_stumbles_is_the_problem_of_its_row() -> None:
    def stumble(row: Row, text: str) -> None:
        raise KeyError("end")

    assert answer(ready(split=stumble), output(), 0)["error"]["type"] == "KeyError"


def test_a_row_that_vllm_gives_up_is_an_error() -> None:
    row = answer(ready(), output("", "error"), 0)
    assert row == {"index": 3, "id": "a", "tag": 1, "error": row["error"]}
    assert row["error"]["type"] == "EngineRowError"


def test_logprobs_that_json_cannot_say() -> None:
    def value(logprob: float, rank: int) -> Any:
        return SimpleNamespace(logprob=logprob, rank=rank, decoded_token=None)

    positions = [{7: value(-math.inf, 1), 9: value(-1.0, 2)}, {8: value(math.nan, 3), 9: value(-2.0, 1)}]
    row = answer(ready(logprobs=2), output(logprobs=positions), 0)
    assert [token["logprob"] for token in row["logprobs"]] == [-9999.0, None]
    assert [len(token["top_logprobs"]) for token in row["logprobs"]] == [2, 1]
    assert msgspec.json.decode(msgspec.json.encode(row)) == row


def test_ids_of_batch_lines_are_the_same_every_time() -> None:
    row = {**ROW, "batch": {"custom_id": "c", "url": "/v1/chat/completions", "model": "m"}}
    lines = [answer(ready(row), output(), 0)["line"] for _ in range(2)]
    assert lines[0] == lines[1]
    assert failure(row, ValueError("no"))["line"]["id"] == lines[0]["id"]
    other = {**row, "index": 4}
    assert answer(ready(other), output(), 0)["line"]["id"] != lines[0]["id"]


@pytest.mark.vllm
def test_the_seed_of_a_row_depends_on_job_and_id_only() -> None:
    pytest.importorskip("vllm")
    from vllm_hpc.engine.rows.sampling import seed_of

    assert seed_of(0, "a") == seed_of(0, "a") != seed_of(1, "a")
    assert len({seed_of(0, number) for number in range(100)}) == 100
    assert all(0 <= seed_of(0, number) < 2**32 for number in range(100))


# -- what OpenAI's chats ask to be shown -----------------------------------------------------------------------------
CALL = {"id": "x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
BATCH = {"custom_id": "c", "url": "/v1/chat/completions", "model": "m"}


def reader(text: str | None, calls: list[Row], reason: str, has_reasoning: bool = False) -> Any:
    """A reader of tool calls that has found these."""

    class Reader:
        def __call__(self, one: Any, text_: str, prompt: Any) -> Answer:
            return Answer(text, "because", calls, reason)

    found: Any = Reader()
    found.has_reasoning = has_reasoning
    return found


def choice(row: Row, made: Any = None, **more: Any) -> Row:
    given = msgspec.structs.replace(ready({**ROW, "batch": BATCH, **row}, logprobs=0), calls=made)
    found: Row = answer(given, output(**more), 0)["line"]["response"]["body"]["choices"][0]
    return found


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("text", "reason", "plain", "openai"),
    [(None, "tool_calls", "", None), ("", "stop", "", ""), ("a", "stop", "a", "a")],
)
def test_calls_stand_beside_the_text(text: str | None, reason: str, plain: str, openai: str | None) -> None:
    made = reader(text, [CALL], reason)
    row = answer(msgspec.structs.replace(ready(), calls=made), output(), 0)
    assert (row["text"], row["tool_calls"], row["finish_reason"]) == (plain, [CALL], reason)
    assert "reasoning" not in row
    found = choice({}, made)
    assert found["message"] == {"role": "assistant", "content": openai, "refusal": None, "tool_calls": [CALL]}
    assert found["finish_reason"] == reason


@pytest.mark.inputs
def test_no_calls_are_not_mentioned() -> None:
    row = answer(msgspec.structs.replace(ready(), calls=reader("a", [], "stop", has_reasoning=True)), output(), 0)
    assert (row["reasoning"], row["text"]) == ("because", "a")
    assert "tool_calls" not in row
    assert "tool_calls" not in choice({}, reader("a", [], "stop"))["message"]


@pytest.mark.inputs
def test_reasoning_that_is_not_wanted_is_not_told() -> None:
    value = SimpleNamespace(logprob=-1.0, rank=1, decoded_token="t")
    logprobs = {"logprobs": [{7: value}, {8: value}]}
    made, row = reader("a", [], "stop", has_reasoning=True), {"batch": {**BATCH, "include_reasoning": False}}
    hidden, shown = choice(row, made, **logprobs), choice({}, made, **logprobs)
    assert (hidden["message"]["reasoning"], hidden["logprobs"]) == (None, None)
    assert shown["message"]["reasoning"] == "because"
    assert len(shown["logprobs"]["content"]) == 2
    # Without a parser there is nothing to hide.
    assert len(choice(row, **logprobs)["logprobs"]["content"]) == 2


@pytest.mark.inputs
@pytest.mark.parametrize(
    ("last", "asks", "role", "content"),
    [
        ({"role": "assistant", "content": "The "}, False, "assistant", "The yes"),
        ({"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, False,
         "assistant", "a\nbyes"),
        ({"role": "assistant", "content": None}, False, "assistant", "yes"),
        ({"role": "user", "content": "why?"}, True, "assistant", "yes"),
        ({"role": "user", "content": "why?"}, False, "user", "why?yes"),
    ],
)  # fmt: skip
def test_the_last_message_is_repeated(last: Row, asks: bool, role: str, content: str) -> None:
    """As vLLM's server does with echo: if whoever spoke last goes on."""
    row = {
        "messages": [last],
        "batch": {**BATCH, "echo": True},
        "chat_template_kwargs": {"add_generation_prompt": asks},
    }
    assert choice(row)["message"] == {"role": role, "content": content, "refusal": None}


@pytest.mark.inputs
def test_an_id_is_of_the_parsers_shape_and_always_the_same() -> None:
    def settled(given: str | None, place: str = "0:0") -> str:
        return settled_id(given, "f", '<tool_call>{"id": "call_1"}', [3, "a", place])

    random = settled("chatcmpl-tool-0123456789abcdef")
    assert random == settled("chatcmpl-tool-fedcba9876543210") == settled(None)
    assert random != settled(None, "0:1")
    assert (random[:14], len(random)) == ("chatcmpl-tool-", 30)
    assert len(settled("aB3dE6gH9")) == 9  # a Mistral model's
    assert settled("functions.f:0") == "functions.f:0"  # Kimi's
    assert settled("call_1") == "call_1"
