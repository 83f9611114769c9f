"""Which rows fail: a rehearsal is to say the same as vLLM, wherever it can know without a tokenizer and a vocabulary.

One file of bad rows, and of odd ones that are right, goes through a real job and through a rehearsal of the same model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.real_jobs import PATIENCE_S, submit_tiny
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.vllm, pytest.mark.full]


def sampled(**sampling: Any) -> Row:
    return {"prompt": "def f(x):", "sampling": sampling}


def said(role: str, content: Any) -> Row:
    return {"messages": [{"role": role, "content": content}]}


IMAGE = {"type": "image_url", "image_url": {"url": "x"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s"}}
BAD: dict[str, Row] = {
    # A sampling parameter of another type.
    "max_tokens in words": sampled(max_tokens="many"),
    "max_tokens of a half": sampled(max_tokens=1.5),
    "temperature in words": sampled(temperature="hot"),
    "temperature in a list": sampled(temperature=[1]),
    "seed in words": sampled(seed="mine"),
    "stop of a number": sampled(stop=7),
    "stop of numbers": sampled(stop=["a", 7]),
    "stop tokens in words": sampled(stop_token_ids=["x"]),
    "bad_words of a text": sampled(bad_words="no"),
    "logit_bias in a list": sampled(logit_bias=[1]),
    "logit_bias of words": sampled(logit_bias={"a": 1}),
    "ignore_eos in words": sampled(ignore_eos="perhaps"),
    "detokenize in words": sampled(detokenize="perhaps"),
    "allowed_token_ids of a number": sampled(allowed_token_ids=7),
    "extra_args in a list": sampled(extra_args=[1]),
    # One beyond its limits, as a number and as a text.
    "negative temperature": sampled(temperature=-1),
    "negative temperature as text": sampled(temperature="-1"),
    "temperature above 2": sampled(temperature=2.5),
    "infinite temperature": sampled(temperature="inf"),
    "no top_p": sampled(top_p=0),
    "top_p above 1": sampled(top_p="1.5"),
    "top_k below -1": sampled(top_k=-2),
    "min_p above 1": sampled(min_p=1.1),
    "presence_penalty above 2": sampled(presence_penalty=2.1),
    "frequency_penalty below -2": sampled(frequency_penalty="-2.1"),
    "no repetition_penalty": sampled(repetition_penalty=0),
    "infinite repetition_penalty": sampled(repetition_penalty="inf"),
    "no tokens wanted": sampled(max_tokens=0),
    "min_tokens above max_tokens": sampled(min_tokens="9", max_tokens=3),
    "negative min_tokens": sampled(min_tokens=-1),
    "negative logprobs": sampled(logprobs=-2),
    "too many logprobs": sampled(logprobs=500),
    "too many prompt_logprobs": sampled(prompt_logprobs=500),
    "too many top_logprobs": sampled(logprobs=True, top_logprobs=500),
    "no n": sampled(n=0),
    "huge n": sampled(n=10**7, temperature=1),
    "n of a greedy row": sampled(n=3, temperature=0),
    "no max_completion_tokens": sampled(max_completion_tokens=0),
    "no interval": sampled(stream_interval=0),
    "extra_args beyond 64 bits": sampled(extra_args={"a": 2**70}),
    # Names, stops, biases.
    "unknown name": sampled(temprature=1),
    "private name": sampled(_all_stop_token_ids=[1]),
    "name of vLLM's own": sampled(output_kind=2),
    "empty stop": sampled(stop=""),
    "empty stop in a list": sampled(stop=["a", ""]),
    "stop without a text": sampled(stop="a", detokenize=False),
    "empty bad word": sampled(bad_words=[""]),
    "bias of a token that is none": sampled(logit_bias={"100000": 1}),
    "no allowed token": sampled(allowed_token_ids=[]),
    "allowed token that is none": sampled(allowed_token_ids=[10**6]),
    # Structured outputs.
    "constraint of a wrong type": sampled(structured_outputs="json"),
    "unknown constraint": sampled(structured_outputs={"jsn": {}}),
    "no constraint": sampled(structured_outputs={}),
    "two constraints": sampled(structured_outputs={"regex": "a", "choice": ["b"]}),
    "no choice": sampled(structured_outputs={"choice": []}),
    "grammar that does not parse": sampled(structured_outputs={"grammar": 'root ::= "a" | '}),
    "regex that does not compile": sampled(structured_outputs={"regex": "(["}),
    "schema that is no JSON": sampled(structured_outputs={"json": "{"}),
    "schema of an unknown type": sampled(structured_outputs={"json": {"type": "nonsense"}}),
    "unknown response_format": sampled(response_format={"type": "xml"}),
    "response_format in words": sampled(response_format="json"),
    "response_format without a schema": sampled(response_format=SCHEMA),
    "response_format and a constraint": sampled(
        response_format={"type": "json_object"}, structured_outputs={"choice": ["a"]}
    ),
    "constraint that is off": sampled(structured_outputs={"json_object": False}),
    "choice of a text": sampled(structured_outputs={"choice": "yes"}),
    "option of a constraint in words": sampled(structured_outputs={"choice": ["a"], "disable_any_whitespace": "x"}),
    # Parameters that a rehearsal does not use.
    "skip_special_tokens in words": sampled(skip_special_tokens="perhaps"),
    "flag of a number with a point": sampled(include_stop_str_in_output=1.0),
    "thinking budget below -1": sampled(thinking_token_budget=-5),
    "repetition without a count": sampled(repetition_detection={"max_pattern_size": 2}),
    "an array of numpy's": sampled(prompt_logprob_token_ids=[[1]]),
    "a huge seed of a random row": sampled(seed=2**70, temperature=1),
    # Prompts, chats.
    "empty prompt": {"prompt": ""},
    "no tokens": {"prompt": []},
    "token above the vocabulary": {"prompt": [10**6]},
    "token below the vocabulary": {"prompt": [-5]},
    "too long": {"prompt": "word " * 2000},
    "too long a chat": said("user", "word " * 2000),
    "too many tokens": {"prompt": [5] * 300},
    "no room for an answer": {"prompt": [5] * 256},
    "unknown role": said("robot", "hello"),
    "image for a text model": said("user", [IMAGE]),
    "part of an unknown type": said("user", [{"type": "smell", "smell": "x"}]),
    # What else a row has.
    "adapter of a job without": {"prompt": "a", "lora": "mine"},
    "adapter of a number": {"prompt": "a", "lora": 7},
    "embedding of a generating model": {"prompt": "a", "task": "embed"},
    "cut to where no answer has room": {"prompt": [5] * 300, "sampling": {"truncate_prompt_tokens": -1}},
    "truncation to nothing": sampled(truncate_prompt_tokens=0),
    "truncation below -1": sampled(truncate_prompt_tokens=-2),
    "truncation in words": sampled(truncate_prompt_tokens="8"),
    "truncation on no side": sampled(truncate_prompt_tokens=4, truncation_side="top"),
}
ODD: dict[str, Row] = {
    "plain": {"prompt": "def f(x):"},
    "numbers as texts": sampled(max_tokens="8", temperature="0.5", top_p="1", top_k="4", seed="7", n="2"),
    "true as text": sampled(ignore_eos="true"),
    "nulls": sampled(stop=None, seed=None, logprobs=None),
    "null stays no limit": sampled(max_tokens=None),
    "a whole number with a point": sampled(max_tokens=8.0),
    "whole numbers with a point": sampled(top_k=5.0, seed=1.0, truncate_prompt_tokens=4.0, stop_token_ids=[5.0]),
    "all tokens": sampled(top_k=-1),
    "more tokens than there are": sampled(top_k=2**40, max_tokens=2**40),
    "stops": sampled(stop=["a", "b"], stop_token_ids=[5]),
    "a bias": sampled(logit_bias={"5": 1.5}),
    "a choice": sampled(structured_outputs={"choice": ["yes", "no"]}),
    "plain text": sampled(response_format={"type": "text"}),
    "a text part": said("user", [{"type": "text", "text": "hello"}]),
    "an empty chat text": said("user", ""),
    "a huge seed": sampled(seed=2**70),
    "cut": {"prompt": [5] * 300, "sampling": {"truncate_prompt_tokens": 8}},
    "the base model": {"prompt": "a", "lora": None},
    "generate": {"prompt": "a", "task": "generate"},
}
ROWS: list[Row] = [{"id": name, **row} for name, row in {**BAD, **ODD}.items()]

_NO_VOCABULARY = "a rehearsal knows no vocabulary"
_NO_COMPILER = "a rehearsal has no compiler of grammars"
_NO_TEMPLATE = "a rehearsal has no chat template, and no renderer of its parts"
# What fails with vLLM alone -> why.
UNKNOWN: dict[str, str] = {
    "bias of a token that is none": _NO_VOCABULARY,
    "allowed token that is none": _NO_VOCABULARY,
    "token above the vocabulary": _NO_VOCABULARY,
    "grammar that does not parse": _NO_COMPILER,
    "regex that does not compile": _NO_COMPILER,
    "schema of an unknown type": _NO_COMPILER,
    "unknown role": _NO_TEMPLATE,
    "image for a text model": _NO_TEMPLATE,
    "part of an unknown type": _NO_TEMPLATE,
}


def test_the_same_rows_fail_as_with_vllm(tiny: Path, tmp_path: Path) -> None:
    with_vllm, rehearsed = (failed(tiny, tmp_path / name, name == "rehearsed") for name in ("vllm", "rehearsed"))
    assert with_vllm.keys() == BAD.keys()
    assert rehearsed.keys() == BAD.keys() - UNKNOWN.keys(), {**with_vllm, **rehearsed}


def failed(model: Path, work: Path, is_rehearsal: bool) -> dict[str, Any]:
    """The rows that fail, each with its error."""
    work.mkdir()
    job = submit_tiny(model, work, ROWS, tp=1, rehearse={} if is_rehearsal else None)
    status = job.wait(PATIENCE_S)
    assert (status.state, status.rehearsal) == ("PARTIAL", is_rehearsal), (status, job.logs())
    return {row["id"]: row["error"] for row in job.results() if "error" in row}
