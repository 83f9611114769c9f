"""What a row may ask for and what it gets, in one engine start; beside what plain vllm.LLM answers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.engine_run import Outcome, run
from tests.real_jobs import ENGINE
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.vllm, pytest.mark.full]

TEXT = "def function_1(folder):"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello"}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "parts"}]}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
# A random model may write spaces without end.
COMPACT = {"backend": "xgrammar", "disable_any_whitespace": True}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
BATCH = {"custom_id": "request-1", "url": "/v1/chat/completions", "model": "tiny"}
COMPLETION = {**BATCH, "url": "/v1/completions"}


def row(prompt: Any = TEXT, **sampling: Any) -> Row:
    return {"prompt": prompt, "sampling": sampling}


ROWS: dict[str, Row] = {
    "text": row(),
    "ids": row([5, 6, 7, 8]),
    "chat": {"messages": CHAT},
    "parts": {"messages": PARTS},
    "template": {"messages": CHAT, "chat_template_kwargs": {"add_generation_prompt": False}},
    "n": row(n=3, temperature=1.0, seed=7, stop=["e"]),
    "logprobs": row(logprobs=2, prompt_logprobs=1, max_tokens=3),
    "chosen logprob": row(logprobs=0, max_tokens=2),
    "impossible": row(logprobs=5, max_tokens=1, allowed_token_ids=[70, 71]),
    "chat logprobs": {"messages": CHAT, "sampling": {"logprobs": True, "top_logprobs": 2, "max_completion_tokens": 3}},
    "stop": row(stop=["a"], include_stop_str_in_output=True),
    "stop token": row(stop_token_ids=list(range(3, 1000)), min_tokens=4),
    "banned": row(logit_bias={"70": 100}, max_tokens=3),
    "bad words": row(bad_words=["d"], allowed_token_ids=[70, 71], max_tokens=3),
    "truncated": row([5] * 300 + [6, 7], truncate_prompt_tokens=2),
    "truncated text": row("word " * 2000 + "def", truncate_prompt_tokens=4, truncation_side="left"),
    "near the end": row([5] * 250, max_tokens=100, ignore_eos=True),
    "no limit": row([5] * 250, max_tokens=None, ignore_eos=True),
    "json": row(structured_outputs={"json": SCHEMA}),
    "response_format": row(response_format=FORMAT),
    "json_object": row(response_format={"type": "json_object"}, max_tokens=40),
    "plain format": row(response_format={"type": "text"}),
    "regex": row(structured_outputs={"regex": "[0-9]{3}-[a-z]"}),
    "choice": row(structured_outputs={"choice": ["yes", "no"]}),
    "grammar": row(structured_outputs={"grammar": 'root ::= "ab" | "cd"'}),
    "batch chat": {"messages": CHAT, "batch": BATCH, "sampling": {"n": 2, "temperature": 1, "logprobs": 2}},
    "batch text": {**row(logprobs=2, prompt_logprobs=0), "batch": COMPLETION},
    "batch error": {**row(temperature=-1), "batch": COMPLETION},
    "batch embedding": {**row(), "batch": {**BATCH, "url": "/v1/embeddings"}},
    "carried": {**row(), "tag": {"n": 1}},
}
REFERENCE: dict[str, Row] = {
    "text": {"call": "generate", "prompt": TEXT},
    "ids": {"call": "generate", "prompt": {"prompt_token_ids": [5, 6, 7, 8]}},
    "chat": {"call": "chat", "prompt": CHAT},
    "parts": {"call": "chat", "prompt": PARTS},
    "template": {"call": "chat", "prompt": CHAT, "arguments": {"add_generation_prompt": False}},
}


@pytest.fixture(scope="module")
def outcome(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(
        tmp_path_factory.mktemp("features"),
        model=str(tiny),
        engine={**ENGINE, "structured_outputs_config": COMPACT},
        sampling={"temperature": 0, "max_tokens": 24},
        rows=list(ROWS.values()),
        reference=list(REFERENCE.values()),
    )


@pytest.fixture
def found(outcome: Outcome) -> dict[str, Row]:
    return dict(zip(ROWS, outcome.rows, strict=True))


@pytest.mark.parametrize("name", REFERENCE)
def test_prompts_and_texts_are_those_of_plain_vllm(outcome: Outcome, name: str) -> None:
    index = list(ROWS).index(name)
    plain = outcome.reference[list(REFERENCE).index(name)]
    assert outcome.prompts[str(index)] == plain["prompt"]
    assert outcome.rows[index]["text"] == plain["text"]


def test_a_plain_row_has_what_it_has_always_had(found: dict[str, Row]) -> None:
    assert list(found["carried"]) == [
        "index", "id", "text", "finish_reason", "prompt_tokens", "completion_tokens", "replica", "tag",
    ]  # fmt: skip
    assert found["plain format"]["text"] == found["text"]["text"]


def test_several_outputs(found: dict[str, Row], outcome: Outcome) -> None:
    several = found["n"]
    assert "text" not in several
    assert len(several["outputs"]) == 3
    assert len({one["text"] for one in several["outputs"]}) > 1
    assert several["completion_tokens"] == sum(one["completion_tokens"] for one in several["outputs"])
    assert all(one["stop_reason"] == "e" for one in several["outputs"] if one["finish_reason"] == "stop")
    assert len(outcome.digests[str(several["index"])]) == 3


def test_logprobs(found: dict[str, Row]) -> None:
    given = found["logprobs"]
    assert len(given["logprobs"]) == 3
    for token in given["logprobs"]:
        assert list(token) == ["token", "token_id", "logprob", "rank", "top_logprobs"]
        assert [top["rank"] for top in token["top_logprobs"]] == [1, 2]
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0  # greedy
    # Of a token that is a part of a character, vLLM gives no text beside its number, and U+FFFD in the answer.
    assert "".join(token["token"] for token in given["logprobs"]) == given["text"].replace("\ufffd", "")
    assert given["prompt_logprobs"][0] is None
    assert len(given["prompt_logprobs"]) == given["prompt_tokens"]
    assert all(token["top_logprobs"][0]["rank"] == 1 for token in given["prompt_logprobs"][1:])
    assert [token["top_logprobs"] for token in found["chosen logprob"]["logprobs"]] == [[], []]
    assert len(found["chat logprobs"]["logprobs"]) == 3


def test_an_impossible_token_is_written_as_json_can(found: dict[str, Row]) -> None:
    text = json.dumps(found["impossible"], allow_nan=False)
    assert all(token["logprob"] >= -9999.0 for token in json.loads(text)["logprobs"][0]["top_logprobs"])


def test_how_a_text_ends(found: dict[str, Row]) -> None:
    stopped = found["stop"]
    assert (stopped["finish_reason"], stopped["stop_reason"], stopped["text"][-1]) == ("stop", "a", "a")
    by_token = found["stop token"]
    assert (by_token["finish_reason"], type(by_token["stop_reason"])) == ("stop", int)
    assert by_token["completion_tokens"] == 5
    assert found["near the end"]["completion_tokens"] == found["no limit"]["completion_tokens"] == 6
    assert found["near the end"]["finish_reason"] == "length"


def test_parameters_of_a_row_reach_the_sampler(found: dict[str, Row], outcome: Outcome) -> None:
    assert outcome.digests[str(found["banned"]["index"])] == [[70] * 3]
    assert outcome.digests[str(found["bad words"]["index"])] == [[71] * 3]  # 70 is "d"


def test_truncation(found: dict[str, Row], outcome: Outcome) -> None:
    assert outcome.prompts[str(found["truncated"]["index"])] == [6, 7]
    assert len(outcome.prompts[str(found["truncated text"]["index"])]) == 4


def test_structured_output(found: dict[str, Row]) -> None:
    assert type(json.loads(found["json"]["text"])["a"]) is bool
    assert json.loads(found["response_format"]["text"]) == json.loads(found["json"]["text"])
    assert found["json_object"]["text"].lstrip().startswith("{")
    assert re.fullmatch("[0-9]{3}-[a-z]", found["regex"]["text"])
    assert found["choice"]["text"] in ("yes", "no")
    assert found["grammar"]["text"] in ("ab", "cd")


def test_batch_lines_are_openais(found: dict[str, Row]) -> None:
    from openai.types import Completion
    from openai.types.chat import ChatCompletion

    chat = found["batch chat"]
    assert set(chat) == {"index", "id", "prompt_tokens", "completion_tokens", "replica", "line"}
    assert chat["line"]["custom_id"] == "request-1"
    assert (chat["line"]["error"], chat["line"]["response"]["status_code"]) == (None, 200)
    body = ChatCompletion.model_validate(chat["line"]["response"]["body"], strict=True)
    assert [choice.index for choice in body.choices] == [0, 1]
    assert body.created == 1_763_820_000
    assert body.usage is not None
    assert body.usage.completion_tokens == chat["completion_tokens"]
    assert body.choices[0].logprobs is not None
    assert len(body.choices[0].logprobs.content[0].top_logprobs) == 2  # type: ignore[index]
    text = Completion.model_validate(found["batch text"]["line"]["response"]["body"], strict=True)
    assert text.choices[0].text == found["text"]["text"]
    assert text.choices[0].logprobs is not None
    assert text.choices[0].logprobs.text_offset[:2] == [0, len(text.choices[0].logprobs.tokens[0])]  # type: ignore[index]
    assert found["batch text"]["line"]["id"] != chat["line"]["id"]


@pytest.mark.parametrize(("name", "word"), [("batch error", "temperature"), ("batch embedding", "embed")])
def test_a_batch_line_that_fails(found: dict[str, Row], name: str, word: str) -> None:
    failed = found[name]
    assert word in failed["error"]["message"]
    response = failed["line"]["response"]
    assert (response["status_code"], response["body"]["error"]["code"]) == (400, 400)
    assert word in failed["line"]["error"]["message"]
