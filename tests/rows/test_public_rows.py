"""The advice for rows of public data sets and exporters: it is followed here, with jinja and jq."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.rows.public_rows import HI, PACKED, PUBLIC, Public
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not installed")


def refusal(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        list(read_rows(str(file)))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def advised(words: str) -> Reading:
    """The reading that the first option in an error asks for."""
    _, _, advice = words.partition("use --")
    option, value = shlex.split(advice)[:2]
    options: dict[str, Any] = {option.replace("-", "_"): value.rstrip(",")}
    return Reading(**options)


@pytest.mark.parametrize("case", PUBLIC, ids=lambda case: case.name)
def test_the_advice_leads_to_the_prompt(tmp_path: Path, case: Public) -> None:
    words = refusal(tmp_path / "in.jsonl", json.dumps(case.row) + "\n")
    if case.prompt is None:
        assert words.endswith(
            "use --prompt-column NAME with the one that is the prompt, or --prompt-template with {{ NAME }} for several"
        )
        return
    (row,) = read_rows(str(tmp_path / "in.jsonl"), advised(words))
    assert row["prompt"] == case.prompt


def test_the_advice_has_a_field_that_is_null_here(tmp_path: Path) -> None:
    """Alpaca's input, which the first row may lack."""
    rows: list[Row] = [{"instruction": "Hi", "input": None}, {"instruction": "Add", "input": "1"}]
    words = refusal(tmp_path / "in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    prompts = [row["prompt"] for row in read_rows(str(tmp_path / "in.jsonl"), advised(words))]
    assert prompts == ["Hi", "Add\n\n1"]


def jq(words: str, file: Path) -> list[Row]:
    """The rows that the program in an error makes of a file."""
    program = re.search(r"as (jq -c .*) does", words)
    assert program, words
    made = subprocess.run(
        [*shlex.split(program[1]), str(file)], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    file.with_name("out.jsonl").write_text(made)
    return list(read_rows(str(file.with_name("out.jsonl"))))


@needs_jq
@pytest.mark.parametrize("spread", [None, 2])
@pytest.mark.parametrize(("name", "given", "made"), PACKED, ids=[name for name, *_ in PACKED])
def test_jq_takes_the_rows_out(tmp_path: Path, name: str, given: Any, made: list[Any], spread: int | None) -> None:
    words = refusal(tmp_path / "in.json", json.dumps(given, indent=spread) + "\n")
    rows = jq(words, tmp_path / "in.json")
    assert [row.get("prompt") or [message["content"] for message in row["messages"]] for row in rows] == made


@needs_jq
def test_jq_keeps_ids_systems_and_sampling(tmp_path: Path) -> None:
    params = {"max_tokens": 5, "stop_sequences": ["x"], "messages": [{"role": "user", "content": "a"}]}
    lines = [{"custom_id": "a", "params": params | {"system": "s"}}, {"custom_id": "b", "params": params}]
    words = refusal(tmp_path / "in.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    rows = jq(words, tmp_path / "in.jsonl")
    assert [(row["custom_id"], len(row["messages"])) for row in rows] == [("a", 2), ("b", 1)]
    assert rows[0]["sampling"] == {"max_tokens": 5, "stop": ["x"]}


@pytest.mark.parametrize(
    ("prompt", "text"),
    [({"text": "Hi", "toxicity": 0.5}, "Hi"), (["One", "Two"], "One"), ({"message_id": "a", "text": "Hi"}, "Hi")],
    ids=["RealToxicityPrompts", "MT-bench in trl", "a tree of OpenAssistant"],
)
def test_a_prompt_in_an_object_or_a_list_is_found(tmp_path: Path, prompt: Any, text: str) -> None:
    words = refusal(tmp_path / "in.jsonl", json.dumps({"prompt": prompt}) + "\n")
    (row,) = read_rows(str(tmp_path / "in.jsonl"), advised(words))
    assert row["prompt"] == text


def test_a_prompt_beside_messages_is_chosen_by_an_option(tmp_path: Path) -> None:
    """As in ultrachat and no_robots."""
    chat = [{"role": "user", "content": "Hi"}]
    words = refusal(tmp_path / "in.jsonl", json.dumps({"prompt": "Hi", "prompt_id": "a", "messages": chat}) + "\n")
    assert "use --rename prompt=NAME to run the messages, or --prompt-column prompt to run the prompt" in words
    (row,) = read_rows(str(tmp_path / "in.jsonl"), Reading(rename={"prompt": "first_prompt"}))
    assert (row["messages"], row["first_prompt"]) == (chat, "Hi")
    (row,) = read_rows(str(tmp_path / "in.jsonl"), Reading(prompt_column="prompt"))
    assert (row["prompt"], row["in_messages"]) == ("Hi", chat)


@pytest.mark.parametrize(
    "row",
    [
        {"question": ["a", "b"], "answer": ["c", "d"]},
        {"question": {"0": "a", "1": "b"}, "answer": {"0": "c", "1": "d"}},
        {"columns": ["question"], "index": [0], "data": [["a"]]},
    ],
    ids=["list", "columns", "split"],
)
def test_columns_of_pandas_are_told_apart(tmp_path: Path, row: Row) -> None:
    assert "write rows, not columns (pandas: to_json(..., orient=" in refusal(tmp_path / "in.jsonl", json.dumps(row))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"chosen": HI}, "use --rename chosen=conversations --drop-last-answer"),
        ({"conversation_id": "a", "model": "m", "conversation": HI}, "use --rename conversation=conversations"),
        ({"question": "Q?", "history": HI}, "use --prompt-column question"),
        ({"custom_id": "a", "result": {"type": "succeeded"}}, "a line of an Anthropic batch's output"),
        ({"input_ids": [1, 2], "attention_mask": [1, 1]}, "use --rename input_ids=prompt"),
        ({"it's": "a"}, "use --prompt-column 'it'\"'\"'s'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_else_is_advised(tmp_path: Path, row: Row, said: str) -> None:
    assert said in refusal(tmp_path / "in.jsonl", json.dumps(row))
