"""Chats as vLLM's own server answers them, in one engine start: tools, templates, prompts that are continued or cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine_run import Outcome, run
from tests.real_jobs import ENGINE, PATIENCE_S, submit_tiny
from vllm_hpc.rows.openai_batch import batch_row
from vllm_hpc.rows.row import Row

pytestmark = [pytest.mark.vllm, pytest.mark.full, pytest.mark.inputs]

HI = [{"role": "user", "content": "Hi"}]
PREFILL = {
    "messages": [*HI, {"role": "assistant", "content": "The answer"}],
    "continue_final_message": True,
    "add_generation_prompt": False,
}
PARAMETERS = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
FUNCTION = {"name": "f", "description": "It does.", "parameters": PARAMETERS, "strict": True}
TOOL = {"type": "function", "function": FUNCTION}
BARE = {"type": "function", "function": {"name": "g"}}
NAMED = {"type": "function", "function": {"name": "f"}}
CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
ALL = (
    "{{ tools | tojson }}{{ messages }}{{ documents }}{{ reasoning_effort }}{{ enable_thinking }}"
    "{{ add_generation_prompt }}"
)
LONG = {"chat_template": ALL, "truncate_prompt_tokens": 190, "max_tokens": 40}
HISTORY = [
    *HI,
    {"role": "assistant", "content": None, "reasoning_content": "so", "tool_calls": [
        {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}]},
    {"role": "tool", "content": "1", "tool_call_id": "x"},
]  # fmt: skip
ROLES = "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ m.reasoning }}{{ m.tool_calls }}{% endfor %}"


def said(text: str) -> Row:
    """Nothing but that text can be the answer, so that a random model calls tools."""
    return {"structured_outputs": {"choice": [text]}}


BODIES: dict[str, Row] = {
    "plain": {},
    "tools": {"tools": [TOOL, BARE], **LONG},
    "tools, of which none": {"tools": [TOOL], "tool_choice": "none", **LONG},
    "auto, and calls": {"tools": [BARE], **said(CALL.replace("f", "g", 1))},
    "auto, text and calls": {"tools": [BARE], **said("Sure. " + CALL + CALL)},
    "auto, one at a time": {"tools": [BARE], **said(CALL + CALL), "parallel_tool_calls": False},
    "auto, and no call": {"tools": [BARE], **said("No.")},
    "auto, half a call": {"tools": [BARE], **said(CALL), "max_tokens": 6},
    "auto, several": {"tools": [BARE], **said(CALL), "n": 2, "temperature": 1, "seed": 1},
    "required": {"tools": [TOOL], "tool_choice": "required"},
    "required, cut": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 3},
    "named": {"tools": [TOOL], "tool_choice": NAMED},
    "named of two": {"tools": [BARE, TOOL], "tool_choice": NAMED},
    "history": {"messages": HISTORY, "chat_template": ROLES, "tools": [BARE], **said("Done.")},
    "prefill": PREFILL,
    "prefill, repeated": {**PREFILL, "echo": True},
    "repeated": {"echo": True},
    "nobody is asked": {"add_generation_prompt": False},
    "a template": {"chat_template": "{{messages}}"},
    "cut": {"truncate_prompt_tokens": 3},
    "cut on the right": {"truncate_prompt_tokens": 3, "truncation_side": "right"},
    "documents": {"documents": [{"title": "t", "text": "x"}], "chat_template": ALL},
    "effort": {"reasoning_effort": "low", "chat_template": ALL},
    "effort, and a wish": {
        "reasoning_effort": "none",
        "chat_template_kwargs": {"enable_thinking": True},
        "chat_template": ALL,
    },
    "raises": {"chat_template": "{{ messages }}{{ raise_exception('not here') }}"},
    "unknown tool shape": {"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]},
}
# With its schema but without the parser: vLLM's server refuses it, other parsers take it like this.
FORCED = ("required", "required, cut", "named", "named of two")


def row_of(name: str) -> Row:
    body = {
        "model": "tiny",
        "messages": HI,
        "temperature": 0,
        "max_tokens": 150,
        **json.loads(json.dumps(BODIES[name])),
    }
    return batch_row({"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": body}, 0)


def request_of(name: str, parser: str | None) -> Row:
    return {"call": "serve", "tool_parser": parser, "prompt": "",
            "body": {"messages": HI, "temperature": 0, "max_tokens": 150, **BODIES[name]}}  # fmt: skip


def asked(tiny: Path, work: Path, names: list[str], ours: str | None, theirs: str | None, **more: Any) -> Outcome:
    engine = {**ENGINE, **({"tool_call_parser": ours} if ours else {})}
    rows = [{**row_of(name), "index": index} for index, name in enumerate(names)]
    reference = [request_of(name, theirs) for name in names]
    return run(work, model=str(tiny), engine=engine, sampling={}, rows=rows, reference=reference, **more)


@pytest.fixture(scope="module")
def hermes(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return asked(tiny, tmp_path_factory.mktemp("hermes"), list(BODIES), "hermes", "hermes")


@pytest.fixture(scope="module")
def forced(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """No parser, beside a server with one whose format vLLM has no grammar for: both go by the schema alone."""
    return asked(tiny, tmp_path_factory.mktemp("forced"), list(FORCED), None, "pythonic")


def check_same(outcome: Outcome, index: int) -> None:
    row, theirs = outcome.rows[index], outcome.reference[index]
    ours = row["line"]["response"]["body"]
    if "error" in theirs:
        assert row["line"]["response"]["status_code"] == 400, (ours, theirs)
        assert row["error"]["message"] == theirs["error"]
        return
    assert "choices" in ours, (ours, theirs)
    assert outcome.prompts[str(index)] == theirs["prompt"]
    assert [_choice(one) for one in ours["choices"]] == [_choice(one) for one in theirs["body"]["choices"]]
    if len(ours["choices"]) == 1:  # several are sampled, and a text has more than one way to be made of tokens
        assert ours["usage"]["total_tokens"] == theirs["body"]["usage"]["total_tokens"]
    assert ("prompt_logprobs" in ours) == (theirs["body"]["prompt_logprobs"] is not None)


def _choice(choice: Row) -> Row:
    """What both have: ids are random in the server, and it leaves out what is not there."""
    message = {key: value for key, value in choice["message"].items() if value not in (None, [])}
    calls = [{**call, "id": None} for call in message.pop("tool_calls", [])]
    return {"message": message, "calls": calls, "finish_reason": choice["finish_reason"]}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_answered_as_by_vllms_server(hermes: Outcome, name: str) -> None:
    check_same(hermes, list(BODIES).index(name))


@pytest.mark.parametrize("name", FORCED)
def test_calls_that_are_demanded_need_no_parser(forced: Outcome, name: str) -> None:
    check_same(forced, FORCED.index(name))


def test_calls_are_openais(hermes: Outcome) -> None:
    from openai.types.chat import ChatCompletion

    for name, ended, calls in (
        ("auto, text and calls", "tool_calls", 2),
        ("auto, one at a time", "tool_calls", 1),
        ("auto, and no call", "stop", 0),
        ("auto, half a call", "length", 0),
        ("required", "tool_calls", None),  # one or more: the random model chooses
        ("named", "stop", 1),
    ):
        row = hermes.rows[list(BODIES).index(name)]
        body = ChatCompletion.model_validate(row["line"]["response"]["body"], strict=True)
        found = body.choices[0].message.tool_calls or []
        assert (body.choices[0].finish_reason, len(found)) == (ended, max(1, len(found)) if calls is None else calls), (
            name
        )
        assert len({call.id for call in found}) == len(found)
    text = hermes.rows[list(BODIES).index("auto, text and calls")]["line"]["response"]["body"]["choices"][0]["message"]
    assert text["content"] == "Sure. "
    assert json.loads(text["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


# -- plain rows ------------------------------------------------------------------------------------------------------
FLAT = {"name": "f", "parameters": PARAMETERS}
OWN_CALL = {"type": "function", "id": "x", "function": {"name": "f", "arguments": {"a": 1}}}
OWN_HISTORY = [*HI, {"role": "assistant", "content": "", "tool_calls": [OWN_CALL]}]
PLAIN: dict[str, Row] = {
    "a call": {"messages": HI, "tools": [BARE], "sampling": said("Sure. " + CALL)},
    "nothing but a call": {"messages": HI, "tools": [BARE], "sampling": said(CALL)},
    "no call": {"messages": HI, "tools": [BARE], "sampling": said("No.")},
    "none": {"messages": HI, "tools": [BARE], "tool_choice": "none", "sampling": said(CALL)},
    "no tools": {"messages": HI, "sampling": said(CALL)},
    "required": {"messages": HI, "tools": [TOOL], "tool_choice": "required"},
    "bare function": {"messages": HI, "tools": [FLAT], "tool_choice": NAMED},
    "arguments as objects": {"messages": OWN_HISTORY, "tools": [FLAT], "sampling": said(CALL), "chat_template": ROLES},
    "several": {"messages": HI, "tools": [BARE], "sampling": {**said(CALL), "n": 2, "temperature": 1}},
    "a template": {"messages": HI, "chat_template": "own {{ messages[0].content }}"},
    "the job's": {"messages": HI},
    "a prompt": {"prompt": "Hi", "tools": "hammer"},
    "continued": {"messages": PREFILL["messages"], "chat_template_kwargs": {"continue_final_message": True}},
}  # fmt: skip
JOB_TEMPLATE = "{% for m in messages %}job {{ m.content }}{% endfor %}"
CONTINUED = {"chat_template": JOB_TEMPLATE, "continue_final_message": True, "add_generation_prompt": False}


@pytest.fixture(scope="module")
def plain(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return run(
        tmp_path_factory.mktemp("plain"),
        model=str(tiny),
        engine={**ENGINE, "tool_call_parser": "hermes"},
        sampling={"temperature": 0, "max_tokens": 150},
        request={"chat_template": JOB_TEMPLATE},
        rows=list(PLAIN.values()),
        reference=[
            {"call": "chat", "prompt": HI, "arguments": {"chat_template": "own {{ messages[0].content }}"}},
            {"call": "chat", "prompt": HI, "arguments": {"chat_template": JOB_TEMPLATE}},
            {"call": "generate", "prompt": "Hi"},
            {"call": "chat", "prompt": PREFILL["messages"], "arguments": CONTINUED},
        ],
    )


@pytest.fixture
def found(plain: Outcome) -> dict[str, Row]:
    return dict(zip(PLAIN, plain.rows, strict=True))


def test_a_plain_row_has_its_calls_beside_the_text(found: dict[str, Row]) -> None:
    row = found["a call"]
    assert (row["text"], row["finish_reason"]) == ("Sure. ", "tool_calls")
    assert row["tool_calls"] == [
        {"id": row["tool_calls"][0]["id"], "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert (found["nothing but a call"]["text"], len(found["nothing but a call"]["tool_calls"])) == ("", 1)
    assert [len(one["tool_calls"]) for one in found["several"]["outputs"]] == [1, 1]
    ids = [one["tool_calls"][0]["id"] for one in found["several"]["outputs"]]
    assert len(set(ids)) == 2
    for name in ("required", "arguments as objects"):
        assert json.loads(found[name]["tool_calls"][0]["function"]["arguments"])["a"] in (1, 2), found[name]
    assert found["bare function"]["tool_calls"][0]["function"]["name"] == "f"  # without "strict" any JSON will do


@pytest.mark.parametrize(("name", "text"), [("no call", "No."), ("none", CALL), ("no tools", CALL)])
def test_a_text_stays_as_it_is(found: dict[str, Row], name: str, text: str) -> None:
    assert (found[name]["text"], found[name]["finish_reason"]) == (text, "stop")
    assert "tool_calls" not in found[name]


def test_templates_are_taken_in_order(plain: Outcome) -> None:
    """The row's, the job's, the model's; none for a prompt."""
    for name, reference in zip(("a template", "the job's", "a prompt", "continued"), plain.reference, strict=True):
        index = list(PLAIN).index(name)
        assert plain.prompts[str(index)] == reference["prompt"]
        assert plain.rows[index]["text"] == reference["text"]
    assert plain.rows[list(PLAIN).index("a prompt")]["tools"] == "hammer"


def test_ids_are_the_same_whenever_a_row_runs(plain: Outcome, tiny: Path, tmp_path: Path) -> None:
    again = run(
        tmp_path,
        model=str(tiny),
        engine={**ENGINE, "tool_call_parser": "hermes"},
        sampling={"temperature": 0, "max_tokens": 150},
        request={"chat_template": JOB_TEMPLATE},
        rows=[PLAIN["a call"]],
    )
    assert again.rows[0]["tool_calls"] == plain.rows[0]["tool_calls"]


def test_a_job_with_its_own_template_over_the_whole_way(plain: Outcome, tiny: Path, tmp_path: Path) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text(JOB_TEMPLATE)
    calls = {"tools": [TOOL], "tool_choice": "required", "sampling": {"max_tokens": 150}}
    rows: list[Row] = [{"messages": HI}, {"messages": HI, **calls}]
    engine = {**ENGINE, "tool_call_parser": "hermes"}
    job = submit_tiny(tiny, tmp_path, rows, engine=engine, tp=2, chat_template=str(template))
    template.unlink()  # while it may not have started
    assert job.wait(PATIENCE_S).state == "COMPLETED", job.logs()
    first, second = job.results()
    alone = plain.rows[list(PLAIN).index("the job's")]
    assert first["prompt_tokens"] == alone["prompt_tokens"]
    assert len(first["text"]) > 20
    assert alone["text"].startswith(first["text"])  # of fewer tokens
    assert second["finish_reason"] == "tool_calls"
    assert len({rank.digest for rank in job.ranks()}) == 1
