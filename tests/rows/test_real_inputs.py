"""Input files as people have them, re-made after public reports in tests/inputs, and others of their kinds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from vllm_hpc.rows.read import checked_rows, find_sources, read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, carried_fields, error_row
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


# -- the assistant's last turn ---------------------------------------------------------------------------------------
ANSWER = {"role": "assistant", "content": "answer that is the label"}


def read_with(file: Path, **options: Any) -> tuple[list[Row], list[str]]:
    """The rows of a file by a reading, and what is said of them."""
    source = find_sources(str(file), Reading(**options))
    return list(checked_rows(source)), source.row_notes.lines()


def noted(folder: Path, *rows: Any, **options: Any) -> tuple[list[Row], list[str]]:
    file = folder / "in.jsonl"
    file.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return read_with(file, **options)


def test_an_answer_at_the_end_is_kept_and_said_once(tmp_path: Path) -> None:
    (row,), (note,) = read_with(INPUTS / "openai_finetune.jsonl")
    assert row["messages"][-1] == ANSWER
    assert note.startswith(
        "1 row ends with the assistant's turn: use --drop-last-answer, or continue_final_message in "
        "chat_template_kwargs (the first: "
    )
    continued = {"messages": [*HI, ANSWER], "chat_template_kwargs": {"continue_final_message": True}}
    embedded = {"messages": [*HI, ANSWER], "task": "embed"}
    rows, (note,) = noted(tmp_path, {"messages": HI}, continued, embedded, *[{"messages": [*HI, ANSWER]}] * 1200)
    assert len(rows) == 1203
    assert note.startswith("1,200 rows end with the assistant's turn: use --drop-last-answer")
    assert note.endswith("in.jsonl:4)")


def test_an_answer_that_is_dropped_is_the_reference() -> None:
    (row,), (note,) = read_with(INPUTS / "openai_finetune.jsonl", drop_last_answer=True)
    assert [message["role"] for message in row["messages"]] == ["system", "user"]
    assert carried_fields(row) == {"reference": "answer that is the label"}
    assert "1 row: the last answer is not in the prompt, but copied to the output as 'reference'" in note


CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "c", "content": "1"}


@pytest.mark.parametrize(
    ("messages", "rest", "reference"),
    [
        ([*HI, ANSWER], HI, ANSWER["content"]),
        ([*HI, ANSWER, ANSWER], HI, [ANSWER, ANSWER]),
        ([*HI, CALLING], HI, [CALLING]),
        ([*HI, CALLING, RESULT, ANSWER], [*HI, CALLING, RESULT], ANSWER["content"]),
        ([*HI, ANSWER, *HI, ANSWER], [*HI, ANSWER, *HI], ANSWER["content"]),
        ([*HI, {"role": "assistant", "content": ["a"]}], HI, [{"role": "assistant", "content": ["a"]}]),
    ],
    ids=lambda value: str(value)[-40:],
)
def test_only_the_turns_at_the_end_are_dropped(
    tmp_path: Path, messages: list[Row], rest: list[Row], reference: Any
) -> None:
    (row,), _ = noted(tmp_path, {"messages": messages}, drop_last_answer=True)
    assert (row["messages"], row["reference"]) == (rest, reference)


def test_a_row_without_an_answer_stays_as_it_is(tmp_path: Path) -> None:
    rows: list[Row] = [{"messages": HI}, {"messages": [*HI, CALLING, RESULT]}, {"prompt": "a"}]
    kept, notes = noted(tmp_path, *rows, drop_last_answer=True)
    assert [{key: row[key] for key in given} for row, given in zip(kept, rows, strict=True)] == rows
    assert not any("reference" in row for row in kept)
    assert notes == []


def test_a_reference_of_the_row_itself_is_kept_too(tmp_path: Path) -> None:
    (row,), notes = noted(tmp_path, {"messages": [*HI, ANSWER], "reference": "gold"}, drop_last_answer=True)
    assert carried_fields(row) == {"in_reference": "gold", "reference": ANSWER["content"]}
    assert any("'reference' as 'in_reference'" in note for note in notes)


def test_a_row_of_answers_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"in\.jsonl:1: there are only turns of the assistant"):
        noted(tmp_path, {"messages": [ANSWER]}, drop_last_answer=True)


# -- names that mean something here ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("name", "carried"),
    [
        ("hf_text.jsonl", {"in_text": "Once upon a time"}),
        ("hf_index.jsonl", {"in_index": 17}),
        (
            "output_as_input.jsonl",
            {
                "in_index": 0, "in_text": "x", "in_finish_reason": "stop", "in_prompt_tokens": 1,
                "in_completion_tokens": 1, "in_replica": 0,
            },
        ),
    ],
)  # fmt: skip
def test_a_field_of_output_rows_is_carried_under_another_name(name: str, carried: Row) -> None:
    (row,), (note,) = read_with(INPUTS / name)
    assert carried_fields(row) == carried
    assert row["index"] == 0
    assert all(f"{key.removeprefix('in_')!r} as {key!r}" in note for key in carried)
    assert note.startswith("1 row: fields whose names have a meaning here are copied under others: ")


def test_a_free_name_is_found_and_said(tmp_path: Path) -> None:
    """As in the third job of a chain, whose input is the second's output."""
    (row,), (note,) = noted(tmp_path, {"prompt": "p", "text": "b", "in_text": "a"})
    assert carried_fields(row) == {"in_text_2": "b", "in_text": "a"}
    assert "'text' as 'in_text_2'" in note


def test_each_name_is_said_once(tmp_path: Path) -> None:
    _, (note,) = noted(tmp_path, {"prompt": "a", "text": 1}, *[{"prompt": "a", "text": 1, "error": None}] * 3)
    assert note.startswith("4 rows: ")
    assert note.count("'text' as 'in_text'") == note.count("'error' as 'in_error'") == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"task": "summarise"}, {"in_task": "summarise"}),
        ({"task": ["a"]}, {"in_task": ["a"]}),
        ({"task": "Generate"}, {"in_task": "Generate"}),
        ({"task": "generate"}, {}),
        ({"task": "embed"}, {}),
        ({"batch": 7}, {"in_batch": 7}),
        ({"batch": {"url": "/v1/embeddings"}}, {"in_batch": {"url": "/v1/embeddings"}}),
        ({"error": {"type": "missing", "message": "m"}}, {"in_error": {"type": "missing", "message": "m"}}),
    ],
    ids=str,
)
def test_a_task_or_a_batch_of_data_is_data(tmp_path: Path, given: Row, expected: Row) -> None:
    (row,), _ = noted(tmp_path, {"prompt": "a", **given})
    assert carried_fields(row) == expected
    assert ("task" in row) == (given.get("task") in ("generate", "embed"))
    assert not {"batch", "error"} & row.keys()


def test_rename_comes_before_anything_else(tmp_path: Path) -> None:
    (row,), notes = noted(
        tmp_path, {"question": "q", "text": "t", "label": 1}, rename={"question": "prompt", "text": "source"}
    )
    assert (row["prompt"], carried_fields(row), notes) == ("q", {"source": "t", "label": 1}, [])
    (row,), _ = noted(tmp_path, {"prompt": "p", "text": "t"}, rename={"prompt": "text", "text": "prompt"})
    assert (row["prompt"], row["in_text"]) == ("t", "p")
    (row,), _ = noted(tmp_path, {"chat": HI, "messages": None}, rename={"chat": "messages"})
    assert row["messages"] == HI
    (row,), _ = noted(tmp_path, {"custom_id": "a", "body": "b"}, rename={"body": "prompt"})
    assert (row["prompt"], row["custom_id"]) == ("b", "a")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "question": "b"}, "in.jsonl:1: it has 'prompt' beside 'question'"),
        ({"prompt": "a"}, "in.jsonl has no row with a field 'question': correct --rename question=prompt"),
    ],
)
def test_a_rename_that_does_not_fit_is_refused(tmp_path: Path, row: Row, said: str) -> None:
    with pytest.raises(InputError) as caught:
        noted(tmp_path, row, rename={"question": "prompt"})
    assert said in str(caught.value)


# -- rows without a prompt -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": "Add", "input": "1", "output": ""}, "'instruction', 'input', 'output': use --prompt-template"),
        ({"instruction": "Add"}, "--prompt-template with {{ instruction }}"),
        ({"dialog": HI}, "use --rename dialog=conversations"),
        ({"chosen": [{"from": "human", "value": "a"}]}, "use --rename chosen=conversations"),
        ({"id": 1, "n": 2}, "this one has 'id', 'n'"),
        ({}, "this one has nothing"),
        ({"index": 0, "error": {"type": "missing", "message": "m"}}, "an earlier job wrote it for a row with an error"),
        ({"id": "r", "custom_id": "a", "response": None, "error": None}, "a line of an OpenAI batch's output"),
        ({"prompt": [{"role": "user", "content": "a"}]}, "use --rename prompt=messages"),
        ({"prompt": {"0": "a"}}, "orient='records', lines=True"),
        ({"prompt": "a", "id": [1]}, "'id' must be a string or a whole number: write rows, not columns"),
        ({"custom_id": "a", "params": {"messages": HI}}, "as jq -c '. + {messages: .params.messages}' does"),
        ({"contents": [{"role": "user", "parts": [{"text": "a"}]}]}, "'contents' is a chat in Gemini's form"),
        ({"version": "1", "data": [{"title": "t"}]}, "if the rows are in 'data', take them out, as jq -c"),
        ({"question_id": "7", "category": "c", "question": "q"}, "use --prompt-column question"),
        ({"uuid": "7", "headline": "h"}, "use --prompt-column headline"),
        ({"messages": [{"from": "human", "value": "a"}]}, "use --rename messages=conversations"),
    ],
    ids=str,
)  # fmt: skip
def test_a_row_without_a_prompt_names_what_it_has(tmp_path: Path, row: Row, said: str) -> None:
    words = refusal(tmp_path, {"prompt": "a"}, row)
    assert "in.jsonl:2: " in words
    assert said in words


def test_the_refusal_of_alpaca_names_the_keys() -> None:
    with pytest.raises(
        InputError, match=r"'instruction', 'input', 'output': use --prompt-template '{{ \[instruction, input\]"
    ):
        case("alpaca.json")


# -- ShareGPT --------------------------------------------------------------------------------------------------------
def test_sharegpts_turns_are_messages() -> None:
    (row,) = case("sharegpt.jsonl")
    assert row["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Name?"},
    ]
    assert carried_fields(row) == {}


@pytest.mark.parametrize(
    ("turns", "roles"),
    [
        ([("system", "s"), ("human", "h"), ("gpt", "g")], ["system", "user"]),
        ([("user", "h"), ("chatgpt", "g")], ["user"]),
        ([("human", "h"), ("gpt", "g"), ("tool", "t")], ["user", "assistant", "tool"]),
        ([("human", "h"), ("assistant", "g"), ("observation", "o")], ["user", "assistant", "tool"]),
    ],
)
def test_turns_of_every_maker_are_read(tmp_path: Path, turns: list[tuple[str, str]], roles: list[str]) -> None:
    conversations = [{"from": who, "value": said, "weight": 1} for who, said in turns]
    (row,), _ = noted(tmp_path, {"conversations": conversations, "lang": "en"}, drop_last_answer=True)
    assert [message["role"] for message in row["messages"]] == roles
    assert (row.get("reference") == "g", row["lang"]) == (turns[-1][1] == "g", "en")
    with_roles = [{"role": who, "content": said} for who, said in turns]
    (again,), _ = noted(tmp_path, {"conversations": with_roles, "lang": "en"}, drop_last_answer=True)
    assert again == row


def test_turns_in_columns_are_turns(tmp_path: Path) -> None:
    """As datasets writes a Sequence of structs."""
    rows = lines(
        tmp_path,
        {"conversations": {"from": ["human", "gpt"], "value": ["a", "b"]}},
        {"messages": {"role": ["user"], "content": ["a"]}},
    )
    assert [len(row["messages"]) for row in rows] == [2, 1]
    assert "'conversations' must be a list of turns" in refusal(
        tmp_path, {"conversations": {"from": ["a"], "value": []}}
    )


def test_a_system_prompt_beside_turns_is_said(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "a"}]
    given = {"conversations": turns, "system": "s"}
    (row, _), (note,) = noted(tmp_path, given, {"conversations": turns, "system": None})
    assert row["system"] == "s"
    assert note.startswith("1 row: 'system' is copied, and no part of the prompt")


@pytest.mark.parametrize("name", ["system", "system_prompt"])
def test_a_system_prompt_beside_messages_or_a_prompt_is_said(tmp_path: Path, name: str) -> None:
    chat = {"messages": [{"role": "user", "content": "a"}], name: "Be brief"}
    own = {"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], name: "s"}
    _, (note,) = noted(tmp_path, chat, {"prompt": "a", name: "Be brief"}, own)
    assert note.startswith(f"2 rows: {name!r} is copied, and no part of the prompt")


def test_sampling_beside_a_prompt_is_said(tmp_path: Path) -> None:
    rows, (note,) = noted(tmp_path, {"prompt": "a", "temperature": 0.5, "max_tokens": 9}, {"prompt": "a", "top_p": 1})
    assert rows[0]["temperature"] == 0.5
    assert note.startswith(
        "2 rows: copied, and not applied: 'max_tokens', 'temperature', 'top_p': to have them applied"
    )
    assert not noted(tmp_path, {"prompt": "a", "sampling": {"temperature": 0.5}})[1]
    assert not noted(tmp_path, {"a": "a", "max_tokens": 9}, prompt_template="{{ a }} {{ max_tokens }}")[1]


def test_a_batch_that_ends_with_an_answer_is_told_its_own_way(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    _, (note,) = noted(tmp_path, {"custom_id": "1", "url": "/v1/chat/completions", "body": {"messages": messages}})
    assert '"continue_final_message": true' in note
    assert "--drop-last-answer" not in note


def test_what_a_batch_request_lacks_is_named(tmp_path: Path) -> None:
    """Mistral's, Together's and Fireworks' have no url."""
    said = refusal(tmp_path, {"custom_id": "1", "body": {}})
    assert said.endswith(":1: 'url' is missing: a batch request has 'custom_id', 'url' and 'body'")


def test_turns_beside_a_prompt_are_data(tmp_path: Path) -> None:
    (row,) = lines(tmp_path, {"prompt": "a", "conversations": 3})
    assert carried_fields(row) == {"conversations": 3}


@pytest.mark.parametrize(
    ("conversations", "said"),
    [
        ([], "must be a list of turns"),
        ("Hi", "must be a list of turns"),
        ([{"from": "nobody", "value": "a"}], "turn 1 of 'conversations' is from 'nobody': use one of human"),
        ([{"from": "human"}], "turn 1 of 'conversations' must have 'from' and 'value'"),
        ([{"from": "human", "value": "a"}, "b"], "turn 2 of 'conversations' must have"),
        ([{"from": "human", "value": 3}], "turn 1 of 'conversations' must have"),
        ([{"role": "user"}], "message 1 ('user') has no 'content'"),
    ],
    ids=str,
)
def test_turns_that_are_none_are_refused(tmp_path: Path, conversations: Any, said: str) -> None:
    words = refusal(tmp_path, {"conversations": conversations})
    assert "in.jsonl:1: " in words
    assert said in words


# -- what Python writes, and JSON does not have ----------------------------------------------------------------------
def test_nan_in_data_is_null_and_said_once(tmp_path: Path) -> None:
    (row,), (note,) = read_with(INPUTS / "nan_meta.jsonl")
    assert carried_fields(row) == {"score": None}
    assert "1 row: NaN or infinity is read as null, in 'score'" in note
    odd = {"prompt": "a", "a": [math.inf, {"b": -math.inf}], "c": 1.5, "big": 10**30, "zero": -0.0}
    rows, (note,) = noted(tmp_path, {"prompt": "a"}, *[odd] * 3)
    assert carried_fields(rows[1]) == {"a": [None, {"b": None}], "c": 1.5, "big": 10**30, "zero": 0.0}
    assert note.startswith("3 rows: NaN or infinity is read as null, in 'a' (the first: ")
    assert note.endswith("in.jsonl:2)")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": math.nan}, "'prompt' contains NaN, which JSON does not have"),
        ({"prompt": [1, math.inf]}, "'prompt' contains Infinity"),
        ({"prompt": "a", "id": math.nan}, "'id' contains NaN"),
        ({"prompt": "a", "sampling": {"temperature": -math.inf}}, "'sampling' contains -Infinity"),
        ({"messages": [{"role": "user", "content": math.nan}]}, "'messages' contains NaN"),
        ({"conversations": [{"from": "human", "value": math.nan}]}, "'conversations' contains NaN"),
        ({"prompt": "a", "lora": math.nan}, "'lora' contains NaN"),
        ({"prompt": "a", "task": math.nan}, "'task' contains NaN"),
    ],
    ids=str,
)
def test_nan_in_a_field_with_a_meaning_is_refused(tmp_path: Path, row: Row, said: str) -> None:
    words = refusal(tmp_path, {"prompt": "a"}, row)
    assert f"in.jsonl:2: {said}" in words


def test_nan_in_an_openai_batch_is_refused(tmp_path: Path) -> None:
    body = {"messages": HI, "temperature": math.nan}
    said = refusal(tmp_path, {"custom_id": "a", "url": "/v1/chat/completions", "body": body})
    assert "in.jsonl:1: 'body' contains NaN" in said


@pytest.mark.parametrize(
    "line", ['{"prompt": "a", "b": nan}', '{"prompt": "a", "b": +Infinity}', '{"prompt": "a", "b": 1e999}']
)
def test_what_python_does_not_write_stays_refused(tmp_path: Path, line: str) -> None:
    assert "in.jsonl:1: not valid JSON" in refusal(tmp_path, line)


def test_a_row_that_cannot_be_read_keeps_its_other_fields_at_the_rank(tmp_path: Path) -> None:
    """What only a chat has is data beside a prompt, also of a row whose prompt is gone."""
    given = {"prompt": "\ud83d", "tools": [1], "chat_template": "t", "meta": 2}
    unreadable, _ = lines(tmp_path, given, {"prompt": "b"})
    out = error_row(unreadable, "UnreadableRowError", "why")
    assert (out["tools"], out["chat_template"], out["meta"]) == ([1], "t", 2)
    chat = {"messages": [{"role": "user", "content": "\ud83d"}], "tools": [], "meta": 2}
    unreadable, _ = lines(tmp_path, chat, {"prompt": "b"})
    assert carried_fields(unreadable) == {"meta": 2}


def test_a_key_twice_is_refused_beside_nan_too(tmp_path: Path) -> None:
    assert "'prompt' appears twice" in refusal(tmp_path, '{"prompt": "a", "b": NaN, "prompt": "c"}')


HALF = r"'prompt' contains half of a surrogate pair, \ud83d, which is no character: was the text cut inside one?"


def test_half_a_character_makes_an_error_row_and_the_others_run() -> None:
    (bad, good), (note,) = read_with(INPUTS / "lone_surrogate.jsonl")
    place = str(INPUTS / "lone_surrogate.jsonl") + ":1"
    assert bad == {"index": 0, "id": "0", "error": {"type": "UnreadableRowError", "message": f"{place}: {HALF}"}}
    assert good == {"index": 1, "id": "1", "prompt": "ok"}
    assert note == f"1 row cannot be run and becomes an error row: {HALF} (the first: {place})"


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (r'{"messages": [{"role": "user", "content": "Hi \ude00"}], "tag": 1}', {"id": "1", "tag": 1}),
        (r'{"prompt": "a", "id": "\ud83d"}', {"id": "1"}),
        (r'{"prompt": "a", "id": "x", "sampling": {"stop": ["\ud83d"]}}', {"id": "x"}),
        (r'{"conversations": [{"from": "human", "value": "\ud83d\ud83d"}]}', {"id": "1"}),
        (r'{"prompt": "\ud83d", "tag": NaN}', {"id": "1", "tag": None}),
    ],
)
def test_half_a_character_in_a_field_with_a_meaning(tmp_path: Path, line: str, fields: Row) -> None:
    (_, row, _), notes = noted(tmp_path, {"prompt": "a"}, line, {"prompt": "c"})
    assert row.pop("error")["type"] == "UnreadableRowError"
    assert row == {"index": 1, **fields}
    assert notes[0].startswith("1 row cannot be run and becomes an error row: ")
    json.dumps(row, ensure_ascii=False).encode()


def test_half_a_character_in_data_is_replaced_and_said(tmp_path: Path) -> None:
    (row, _), (note,) = noted(tmp_path, r'{"prompt": "\ud83d\ude00", "tag": ["\ud83d!"]}', {"prompt": "b"})
    assert (row["prompt"], row["tag"]) == ("\U0001f600", ["\ufffd!"])
    assert "1 row: half of a surrogate pair is read as U+FFFD, in 'tag'" in note


def test_half_a_character_in_an_openai_batch(tmp_path: Path) -> None:
    good = json.dumps({"custom_id": "b", "url": "/v1/chat/completions", "body": {"messages": HI}})
    (row, _), _ = noted(tmp_path, good.replace('"b"', '"a"').replace('"Hi"', r'"\ud83d"'), good)
    assert row.pop("error")["message"].endswith(HALF.replace("prompt", "body"))
    batch = {"custom_id": "a", "url": "/v1/chat/completions", "model": None}
    assert row == {"index": 0, "id": "a", "batch": batch}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{'prompt': 'a'}", "it was written by Python's str(): write it with json.dumps, not str"),
        ('{"prompt": "a"},', "remove the comma at the end of each line, or write one array"),
        ('{"prompt": "a"', "write one complete object per line"),
    ],
)
def test_advice_fits_the_line(tmp_path: Path, line: str, said: str) -> None:
    assert said in refusal(tmp_path, line)


def test_a_byte_that_python_kept_is_called_so(tmp_path: Path) -> None:
    """As open(..., errors="surrogateescape") and a terminal's arguments give it."""
    (row, _), _ = noted(tmp_path, r'{"prompt": "\udc97"}', {"prompt": "b"})
    assert "half of a surrogate pair, \\udc97, which is no character: was it read with" in row["error"]["message"]


def test_an_input_of_which_no_row_can_be_run_is_refused(tmp_path: Path) -> None:
    said = refusal(tmp_path, *[r'{"prompt": "\ud83d"}'] * 2)
    assert said.endswith(f"in.jsonl:1: {HALF} (no other row can be run)")
