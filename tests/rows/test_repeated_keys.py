"""A key that an object has twice is refused wherever it is, however it is written; a text that looks so is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_hpc.rows.decode import parse
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs

_CHAT = '"messages": [{"role": "user", "content": "a"}]'


def _rows(folder: Path, text: str, name: str = "rows.jsonl", reading: Reading | None = None) -> list[Row]:
    (folder / name).write_text(text + "\n")
    return list(read_rows(str(folder / name), reading or Reading()))


@pytest.mark.parametrize(
    ("line", "key", "reading"),
    [
        ('{"question": "a", "question": "b"}', "question", Reading(prompt_column="question")),
        ('{"q": "a", "q": "b"}', "q", Reading(prompt_template="{{ q }}")),
        ('{"text": "a", "text": "b"}', "text", Reading(rename={"text": "prompt"})),
        ('{"conversations": [{"from": "human", "value": "a"}], "conversations": []}', "conversations", Reading()),
        (f'{{{_CHAT}, "tools": [], "tools": []}}', "tools", Reading()),
        ('{"prompt": "a", "sampling": {"n": 1}, "sampling": {"n": 2}}', "sampling", Reading()),
        ('{"prompt": "a", "sampling": {"temperature": 0, "temperature": 1}}', "temperature", Reading()),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content", Reading()),
        (
            '{"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "text": "b"}]}]}',
            "text",
            Reading(),
        ),
        ('{"prompt": "a", "\\u0070rompt": "b"}', "prompt", Reading()),
        ('{"prompt" :"a", "prompt"\t: "b"}', "prompt", Reading()),
        ('{"prompt" :"a", "prompt" :"b", "c": "d\\":"}', "prompt", Reading()),
        ('{"prompt": "a", "meta": {"x": [[{"y": 1, "y": 2}]]}}', "y", Reading()),
        ('{"prompt": "a", "n": NaN, "meta": {"y": 1, "y": 2}}', "y", Reading()),
        ('{"prompt": "a", "": 1, "": 2}', "", Reading()),
        (
            '{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"n": 1, "n": 2}}',
            "n",
            Reading(),
        ),
        (f'{{{_CHAT}, "tools": "[{{\\"type\\": 1, \\"type\\": 2}}]"}}', "type", Reading()),
    ],
)
def test_a_key_twice_is_refused_with_its_line(tmp_path: Path, line: str, key: str, reading: Reading) -> None:
    with pytest.raises(InputError, match=f"rows.jsonl:1: .*{key!r} appears twice in one object: remove one"):
        _rows(tmp_path, line, reading=reading)


def test_a_key_twice_is_refused_in_an_array_and_in_a_cell(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a' appears twice"):
        _rows(tmp_path, '[{"prompt": "x", "a": 1, "a": 2}]', "rows.json")
    with pytest.raises(InputError, match="'n' appears twice"):
        _rows(tmp_path, 'prompt,sampling\nx,"{""n"": 1, ""n"": 2}"', "rows.csv")


@pytest.mark.parametrize(
    "value",
    [
        {"prompt": 'write {"a": 1, "a": 2} as YAML'},
        {"prompt": '":":" :":', "a": {"b": [1, [{"c": 2}], "x"], "d": {}}, "e": []},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": '"role":'}]},
        {"prompt": [1, 2, 3], "a": {"prompt": {"prompt": 1}}},
        {"prompt": "a : b", "n": 10**400},
        {"a" * 9: "\\", 'b"': "\\"},
        ["a", {"b": 1}, {"b": 1}],
        "a",
    ],
)
def test_what_only_looks_so_is_read(value: object) -> None:
    for separators in ((", ", ": "), (",", ":"), (" , ", " : ")):
        assert parse(json.dumps(value, separators=separators).encode()) == value


def test_keys_that_become_the_same_are_refused(tmp_path: Path) -> None:
    """Half of a surrogate pair is U+FFFD in a copied field, so that two names may become one."""
    for row in ('{"prompt": "x", "a\\ud83d": 1, "a\\ud83e": 2}', '{"prompt": "x", "b": {"\\ud83d": 1, "\\ud83e": 2}}'):
        with pytest.raises(InputError, match="two keys of one object differ only in half of a surrogate pair"):
            _rows(tmp_path, row)


def test_a_repeated_key_is_found_before_a_number_that_python_does_not_read() -> None:
    with pytest.raises(RowError, match="'a' appears twice"):
        parse(b'{"a": 1, "a": 2, "n": 0.' + b"1" * 5000 + b"}")
