"""``input`` of a request: one or several, from Python, the command line and job.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.request import Request

pytestmark = pytest.mark.inputs


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.jsonl", "a.jsonl"),
        (Path("a.jsonl"), "a.jsonl"),
        (["a.jsonl"], "a.jsonl"),
        (("a.jsonl",), "a.jsonl"),
        ([Path("b"), "a"], ("b", "a")),
        (("-", "a"), ("-", "a")),
        (None, None),
    ],
)
def test_one_is_a_string_and_several_are_in_order(given: Any, kept: Any) -> None:
    request = make_request({"model": "demo", "input": given})
    assert request.input == kept
    assert msgspec.json.decode(msgspec.json.encode(request), type=Request) == request, "job.json keeps it"


@pytest.mark.parametrize("given", [3, [3], {"a": 1}, b"a", [["a"]], [None], True])
def test_what_is_no_path_is_refused(given: Any) -> None:
    with pytest.raises(RequestError, match=r'^--input must be a string or a list of strings such as "prompts\.jsonl"$'):
        make_request({"model": "demo", "input": given})


class Frame:
    """As a DataFrame of pandas, or a Dataset: something that can be written."""

    def to_json(self) -> None:
        """Not called."""


@pytest.mark.parametrize("given", [[{"prompt": "Hi"}], ({"prompt": "Hi"},), ["a", {"b": 1}], Frame()], ids=range(4))
def test_rows_are_refused_with_how_to_write_them(given: Any) -> None:
    with pytest.raises(
        RequestError, match=r"^--input must be a file or a list of files, not rows: write them as JSONL"
    ):
        make_request({"model": "demo", "input": given})


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(RequestError, match=r"^--input must be a file or a list of files, not an empty list"):
        make_request({"model": "demo", "input": []})


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ('"in.jsonl"', "{0}/in.jsonl"),
        ('["in.jsonl"]', "{0}/in.jsonl"),
        ('["in.jsonl", "/data/b.jsonl"]', ("{0}/in.jsonl", "/data/b.jsonl")),
        ('"-"', "-"),
        ('"*.jsonl"', "{1}/*.jsonl"),
        ('"a[1].jsonl"', "{0}/a[1].jsonl"),
        ('"a[2].jsonl"', "{1}/a[2].jsonl"),
        ('"~/x/*.jsonl"', "/home/ada/x/*.jsonl"),
    ],
)
def test_a_definition_s_inputs_are_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, kept: str | tuple[str, ...]
) -> None:
    """The folder's own name is no pattern: {1} has its bracket escaped."""
    monkeypatch.setenv("HOME", "/home/ada")
    folder = tmp_path / "job [1]"
    folder.mkdir()
    (folder / "a[1].jsonl").write_text("")
    (folder / "job.toml").write_text(f'model = "demo"\ninput = {given}\n')
    escaped = f"{tmp_path}/job [[]1]"
    expected = [one.format(folder, escaped) for one in ([kept] if isinstance(kept, str) else kept)]
    found = make_request({"model": str(folder)}).input
    assert ([found] if isinstance(found, str) else list(found or ())) == expected


@pytest.mark.parametrize("given", ["3", "[3]", "[]", '{ a = "b" }'])
def test_a_definition_with_another_input_is_refused_by_name(tmp_path: Path, given: str) -> None:
    (tmp_path / "job.toml").write_text(f'model = "demo"\ninput = {given}\n')
    with pytest.raises(RequestError, match=r"job\.toml: --input must be"):
        make_request({"model": str(tmp_path)})


def test_the_command_line_s_inputs_replace_those_of_a_definition(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text('model = "demo"\ninput = ["a.jsonl", "b.jsonl"]\n')
    assert make_request({"model": str(tmp_path), "input": ["mine.jsonl"]}).input == "mine.jsonl"


@pytest.mark.parametrize("option", ["input", "lora", "directive"])
@pytest.mark.parametrize("kind", [set, frozenset])
def test_a_set_is_refused_where_the_order_counts(option: str, kind: Any) -> None:
    with pytest.raises(RequestError, match=rf"^--{option} must be a list, not a set, which has no order"):
        make_request({"model": "demo", option: kind(["a", "b"])})
