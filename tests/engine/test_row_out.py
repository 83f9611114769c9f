"""Rows out of outputs that are made up here: what vLLM gives seldom, or only with other models."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rows.row_out import answer, failure
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
