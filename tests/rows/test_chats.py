"""What a chat may have beside its messages, in OpenAI's bodies and in plain rows: tools, templates, continuation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.row import Row, carried_fields
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

CASES = Path(__file__).parent / "cases"
HI = [{"role": "user", "content": "Hi"}]
F = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
NAMED = {"type": "function", "function": {"name": "f"}}
BATCH = {"custom_id": "a", "url": "/v1/chat/completions", "model": "m"}
TOO_DEEP = "{% if a %}" * 2000
OF_TRAINING = {"chat_template": "{% generation %}{{ messages }}{% endgeneration %}"}
WITH_BREAK = {"chat_template": "{% for m in messages %}{% break %}{% endfor %}"}
RIGHT = {"truncate_prompt_tokens": 5, "truncation_side": "right"}
NO_PROMPT = {"add_generation_prompt": False}


def read_one(folder: Path, fields: Any, name: str = "in.jsonl") -> Row:
    (folder / name).write_text(json.dumps(fields) + "\n")
    (row,) = read_rows(str(folder / name))
    return row


def body(**fields: Any) -> Row:
    return {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
            "body": {"model": "m", "messages": HI, **fields}}  # fmt: skip


def chat(**fields: Any) -> Row:
    return {"messages": HI, **fields}


# -- the files of ../shared/cases ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("file", "options", "sampling"),
    [
        ("oa_tools", {"tools": [F], "tool_choice": "auto"}, {}),
        ("oa_prefill", {"chat_template_kwargs": {"continue_final_message": True, "add_generation_prompt": False}}, {}),
        ("oa_truncate", {}, {"truncate_prompt_tokens": 10}),
        ("oa_chat_template", {"chat_template": "{{messages}}"}, {}),
    ],
)
def test_a_request_becomes_a_row(file: str, options: Row, sampling: Row) -> None:
    (row,) = read_rows(str(CASES / f"{file}.jsonl"))
    assert row == {"index": 0, "id": "a", "batch": BATCH, "messages": HI, "sampling": sampling, **options}


# -- OpenAI's bodies -------------------------------------------------------------------------------------------------
BODIES: dict[str, tuple[Row, Row]] = {
    "tools are offered": ({"tools": [F]}, {"tools": [F], "tool_choice": "auto"}),
    "none is called": ({"tools": [F], "tool_choice": "none"}, {"tools": [F], "tool_choice": "none"}),
    "one must be": ({"tools": [F], "tool_choice": "required"}, {"tools": [F], "tool_choice": "required"}),
    "this one": ({"tools": [F], "tool_choice": NAMED}, {"tools": [F], "tool_choice": NAMED}),
    "one at a time": (
        {"tools": [F], "parallel_tool_calls": False},
        {"tools": [F], "tool_choice": "auto", "parallel_tool_calls": False},
    ),
    "the default": ({"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}, {}),
    "nulls": ({"tools": None, "tool_choice": None, "chat_template": None, "documents": None}, {}),
    "no generation prompt": (NO_PROMPT, {"chat_template_kwargs": NO_PROMPT}),
    "the body wins": (
        {"add_generation_prompt": False, "chat_template_kwargs": {"add_generation_prompt": True, "a": 1}},
        {"chat_template_kwargs": {"add_generation_prompt": False, "a": 1}},
    ),
    "flags that are the default": (
        {"continue_final_message": False, "include_reasoning": True, "echo": False, "add_special_tokens": False},
        {"chat_template_kwargs": {"continue_final_message": False}},
    ),
    "documents": ({"documents": [{"text": "t"}]}, {"chat_template_kwargs": {"documents": [{"text": "t"}]}}),
    # vLLM's server sets enable_thinking with it (ChatCompletionRequest.build_chat_params, 0.26 to 0.33)
    "effort": (
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"reasoning_effort": "low", "enable_thinking": True}},
    ),
    "no effort": (
        {"reasoning_effort": "none"},
        {"chat_template_kwargs": {"reasoning_effort": "none", "enable_thinking": False}},
    ),
    "effort, and a wish": (
        {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
        {"chat_template_kwargs": {"reasoning_effort": "high", "enable_thinking": False}},
    ),
    "hidden reasoning": ({"include_reasoning": False}, {"batch": {**BATCH, "include_reasoning": False}}),
    "of training": (OF_TRAINING, OF_TRAINING),
    "loop controls": (WITH_BREAK, WITH_BREAK),
    "older reasoning": (
        {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "b"}]},
        {"messages": [{"role": "assistant", "content": "a", "reasoning": "b"}]},
    ),
    "both reasonings": (
        {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "b", "reasoning": "c"}]},
        {"messages": [{"role": "assistant", "content": "a", "reasoning": "c"}]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
def test_a_body_asks_for(tmp_path: Path, name: str) -> None:
    given, options = BODIES[name]
    row = read_one(tmp_path, body(**given))
    assert row == {"index": 0, "id": "a", "batch": BATCH, "messages": HI, "sampling": {}, **options}
    assert carried_fields(row) == {}


@pytest.mark.parametrize(
    ("given", "sampling"),
    [
        ({"truncate_prompt_tokens": -1}, {"truncate_prompt_tokens": -1}),
        (RIGHT, RIGHT),
        ({"echo": True}, {"prompt_logprobs": 0}),
        ({"echo": True, "logprobs": True, "top_logprobs": 2}, {"logprobs": 2, "prompt_logprobs": 2}),
        ({"echo": True, "prompt_logprobs": 1}, {"prompt_logprobs": 1}),
        ({"session_id": "s", "cache_salt": "c"}, {}),
    ],
)  # fmt: skip
def test_what_becomes_sampling(tmp_path: Path, given: Row, sampling: Row) -> None:
    assert read_one(tmp_path, body(**given))["sampling"] == sampling


@pytest.mark.parametrize(("url", "prompt"), [("/v1/completions", "prompt"), ("/v1/embeddings", "input")])
def test_other_prompts_are_cut_too(tmp_path: Path, url: str, prompt: str) -> None:
    request = {"custom_id": "a", "url": url, "body": {prompt: "p", "truncate_prompt_tokens": 3}}
    assert read_one(tmp_path, request)["sampling"] == {"truncate_prompt_tokens": 3}
    for wrong in (0, -2, True, "3", 1.5):
        request["body"] = {prompt: "p", "truncate_prompt_tokens": wrong}
        with pytest.raises(InputError, match=r"in.jsonl:1: body: 'truncate_prompt_tokens' must be"):
            read_one(tmp_path, request)


# -- refused in both -------------------------------------------------------------------------------------------------
WRONG: list[tuple[Row, str]] = [
    ({"tools": "f"}, "'tools' must be a list of objects"),
    ({"tools": '{"type": "function"}'}, "'tools' must be a list of objects"),
    ({"tools": {"f": {}}}, "'tools' must be a list of objects"),
    ({"tools": ["f"]}, "'tools' must be a list of objects"),
    ({"tools": [{}], "tool_choice": "auto"}, "each of the 'tools' must have a function"),
    ({"tools": [{"type": "function"}], "tool_choice": "required"}, "each of the 'tools' must have a function"),
    ({"tools": [{"function": {"name": 3}}], "tool_choice": "auto"}, "each of the 'tools' must have a function"),
    ({"tools": [F], "tool_choice": "any"}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": True}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": ["f"]}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": {}}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": {"type": "allowed_tools"}}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": {"type": "function", "name": "f"}}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": {"function": {"name": ""}}}, "'tool_choice' must be none, auto, required"),
    ({"tools": [F], "tool_choice": {"function": {"name": "g"}}}, "'tool_choice' names 'g', which is not among"),
    ({"tool_choice": NAMED}, "'tool_choice' names 'f', which is not among"),
    ({"tool_choice": "required"}, "there are no 'tools'"),
    ({"tools": [F], "parallel_tool_calls": "no"}, "'parallel_tool_calls' must be true or false"),
    ({"chat_template": 3}, "'chat_template' must be a string"),
    ({"chat_template": ""}, "'chat_template' must be a string"),
    ({"chat_template": "{% for m in messages %}"}, "'chat_template' does not compile: line 1: "),
    ({"chat_template": "a\n{{ messages | nope }}"}, "'chat_template' does not compile: line 2: No filter named 'nope'"),
    ({"chat_template": "{% include 'x' %}{% nope %}"}, "'chat_template' does not compile: line 1: "),
    ({"chat_template": "chatml"}, "'chat_template' does not use 'messages': write the text of a Jinja template"),
    ({"chat_template": "templates/chatml.jinja"}, "'chat_template' does not use 'messages'"),
    ({"chat_template": "{{ prompt }}"}, "'chat_template' does not use 'messages'"),
    ({"chat_template": TOO_DEEP}, "'chat_template' does not compile"),
    ({"chat_template_kwargs": [1]}, "'chat_template_kwargs' must be an object"),
    ({"chat_template_kwargs": []}, "'chat_template_kwargs' must be an object"),
    ({"tools": ""}, "'tools' must be a list of objects"),
    ({"tools": False}, "'tools' must be a list of objects"),
    ({"chat_template_kwargs": {"chat_template": "x"}}, "use the field 'chat_template'"),
    (
        {"chat_template_kwargs": {"continue_final_message": True, "add_generation_prompt": True}},
        '"add_generation_prompt": false',
    ),
]


@pytest.mark.parametrize("make", [body, chat], ids=["body", "row"])
@pytest.mark.parametrize(("given", "said"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_refused(tmp_path: Path, make: Any, given: Row, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_one(tmp_path, make(**given))
    assert str(caught.value).startswith(f"{tmp_path}/in.jsonl:1: {'body: ' if make is body else ''}")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"continue_final_message": True, "add_generation_prompt": True}, '"add_generation_prompt": false'),
        ({"continue_final_message": True}, '"add_generation_prompt": false'),  # its default is true
        ({"chat_template_kwargs": {"continue_final_message": True}}, '"add_generation_prompt": false'),
        ({"continue_final_message": "yes"}, "'continue_final_message' must be true or false"),
        ({"add_generation_prompt": 0}, "'add_generation_prompt' must be true or false"),
        ({"include_reasoning": 1}, "'include_reasoning' must be true or false"),
        ({"echo": "yes"}, "'echo' must be true or false"),
        ({"documents": {"text": "t"}}, "'documents' must be a list of objects"),
        ({"documents": ["t"]}, "'documents' must be a list of objects"),
        ({"reasoning_effort": "very"}, "'reasoning_effort' must be one of none, minimal, low"),
        ({"reasoning_effort": ["low"]}, "'reasoning_effort' must be one of"),
        ({"truncate_prompt_tokens": 0}, "'truncate_prompt_tokens' must be"),
        ({"truncate_prompt_tokens": "10"}, "'truncate_prompt_tokens' must be"),
        ({"truncation_side": "middle"}, "'truncation_side' must be left or right"),
        ({"add_special_tokens": True}, "'add_special_tokens' cannot be"),
        ({"tools": [{"type": "function", "name": "f"}]}, "each of the 'tools' must have a function"),
        ({"functions": [{"name": "f"}]}, "'functions' is OpenAI's older form: use 'tools'"),
        ({"function_call": "auto"}, "'function_call' is OpenAI's older form: use 'tools'"),
        ({"extra_body": {"top_k": 1}}, "'extra_body' is an argument of OpenAI's client"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "each of the 'tools' must have a function"),
        ({"tools": [{"type": "web_search"}]}, "each of the 'tools' must have a function"),
        ({"thinking": {"type": "disabled"}}, "'thinking' is not supported: remove it"),
    ],
)
def test_what_is_wrong_in_a_body_is_refused(tmp_path: Path, given: Row, said: str) -> None:
    with pytest.raises(InputError, match=r"in.jsonl:1: body: ") as caught:
        read_one(tmp_path, body(**given))
    assert said in str(caught.value)


# -- plain rows ------------------------------------------------------------------------------------------------------
OPTIONS: list[Row] = [
    {"tools": [F]},
    {"tools": []},
    {"tools": [{"name": "f", "parameters": {}}], "tool_choice": {"type": "function", "function": {"name": "f"}}},
    {"tools": [{"code_interpreter": True}]},  # what only the template understands
    {"tools": [F], "tool_choice": "required", "parallel_tool_calls": False},
    {"tool_choice": "none"},
    {"chat_template": "{{ messages }}"},
    {"chat_template_kwargs": {"continue_final_message": True, "add_generation_prompt": False}},
    {"chat_template_kwargs": {"continue_final_message": True}},
    {"chat_template_kwargs": {"enable_thinking": False, "documents": []}},
]


@pytest.mark.parametrize("options", OPTIONS, ids=range(len(OPTIONS)))
def test_a_plain_row_has_the_same(tmp_path: Path, options: Row) -> None:
    row = read_one(tmp_path, chat(**options, mine=1))
    assert row == {"index": 0, "id": "0", "messages": HI, **options, "mine": 1}
    assert carried_fields(row) == {"mine": 1}


def test_they_mean_nothing_beside_a_prompt(tmp_path: Path) -> None:
    data = {"tools": "hammer", "tool_choice": 3, "chat_template": "{% nope", "parallel_tool_calls": "x"}
    assert carried_fields(read_one(tmp_path, {"prompt": "p", **data})) == data


def test_an_output_field_gets_a_name_of_its_own(tmp_path: Path) -> None:
    assert carried_fields(read_one(tmp_path, {"prompt": "p", "tool_calls": []})) == {"in_tool_calls": []}


@pytest.mark.parametrize("given", [json.dumps([F]), {"type": ["function"], "function": [F["function"]]}])
def test_tools_as_datasets_keep_them(tmp_path: Path, given: Any) -> None:
    """As text (xLAM's and Hermes' function calling data), or as an object of lists (a Sequence of structs)."""
    assert read_one(tmp_path, chat(tools=given))["tools"] == [F]


def test_a_table_of_chats(tmp_path: Path) -> None:
    header = "messages;tools;tool_choice;parallel_tool_calls;chat_template;note".replace(";", ",")
    cells = [json.dumps(HI), json.dumps([F]), json.dumps(NAMED), "False", "{{ messages }}", "n"]
    words = [json.dumps(HI), json.dumps([F]), "required", "", "", ""]
    bare = [json.dumps(HI), "", "", "", "", "x"]
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in (cells, words, bare)]
    (tmp_path / "in.csv").write_text("\n".join([header, *lines]) + "\n")
    first, second, third = read_rows(str(tmp_path / "in.csv"))
    assert (first["tools"], first["tool_choice"], first["parallel_tool_calls"]) == ([F], NAMED, False)
    assert (first["chat_template"], carried_fields(first)) == ("{{ messages }}", {"note": "n"})
    assert second["tool_choice"] == "required"
    assert not {"chat_template", "parallel_tool_calls"} & set(second)
    assert third == {"index": 2, "id": "2", "messages": HI, "note": "x"}


def test_a_table_of_prompts_carries_them(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("prompt,tools,tool_choice\nhello,hammer,\n")
    (row,) = read_rows(str(tmp_path / "in.csv"))
    assert carried_fields(row) == {"tools": "hammer", "tool_choice": ""}
