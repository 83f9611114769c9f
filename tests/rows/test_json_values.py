"""JSON that is not one object a line: where its first object begins and ends, and what is too long to be a row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vllm_hpc.rows import json_values
from vllm_hpc.rows.read import read_rows
from vllm_hpc.rows.row import RowError
from vllm_hpc.spec.errors import InputError

pytestmark = pytest.mark.inputs


def _prompts(folder: Path, text: str, name: str = "in.jsonl") -> list[str]:
    (folder / name).write_text(text, encoding="utf-8")
    return [row["prompt"] for row in read_rows(str(folder / name))]


@pytest.mark.parametrize(
    "text",
    [
        '{ "prompt": "a",\n  "id": 1 }\n{ "prompt": "b",\n  "id": 2 }\n',
        '{"prompt":\n"a"}\n{"prompt":\n"b"}',
        '{"prompt"\n: "a"}{"prompt": "b"}\n',
        '{"prompt": "a", "meta": {\n"x": 1}}\n{"prompt": "b"}\n',
        '\ufeff\n  {"prompt": "a", "tags": [\r\n1,\r\n2]\r\n}\r\n{"prompt": "b"}\r\n',
        '{"prompt": "a", "long": "' + "x" * 100_000 + '",\n"id": 1}\n{"prompt": "b"}\n',
        '{\n\n"prompt": "a"}\n\n{"prompt": "b"}',
    ],
    ids=lambda text: repr(text[:24]),
)
@pytest.mark.parametrize("name", ["in.jsonl", "in.json"])
def test_an_object_over_several_lines_is_read_wherever_its_first_line_ends(
    tmp_path: Path, text: str, name: str
) -> None:
    assert _prompts(tmp_path, text, name) == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"prompt": "a",\n{"prompt": "b"}\n', "in.jsonl:1: not valid JSON"),
        ('{"prompt": "a"\n{"prompt": "b"}\n', "in.jsonl:1: not valid JSON"),
        ('{"prompt": "a\nb"}\n', "in.jsonl:1: not valid JSON"),
        ('{"prompt": "a",', "in.jsonl:1: not valid JSON"),
        ('{"prompt": "a", \n', "in.jsonl:1: not valid JSON"),
        ('{"prompt": "a"},\n{"prompt": "b"}\n', "remove the comma at the end of each line"),
    ],
)
def test_a_broken_first_line_is_still_an_error_of_that_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _prompts(tmp_path, text)


def test_what_is_too_long_for_a_row_is_called_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "_MOST_FIRST", 1 << 20)
    monkeypatch.setattr(json_values, "MAX_LINE", 2 << 20)
    rows = ",\n".join(json.dumps({"prompt": "x" * 50}) for _ in range(40_000))
    advice = r"if the rows are in 'data', take them out, as jq -c '\.data\[\]' does"
    with pytest.raises(InputError, match=rf"in\.json: the first row has more than 1 Mi characters: {advice}"):
        _prompts(tmp_path, f'{{\n"version": 1, "tags": [1], "data": [{rows}]}}', "in.json")
    long = "x" * (1 << 20)
    with pytest.raises(InputError, match=r"the first row has more than 1 Mi characters: write one row per line"):
        _prompts(tmp_path, f'[{{"prompt": "{long}"}}]')
    with pytest.raises(InputError, match=r"in\.jsonl:2: item 2: a row has more than 2 Mi characters: write one row"):
        _prompts(tmp_path, f'[{{"prompt": "a"}},\n{{"prompt": "{long}{long}"}}]')
    assert _prompts(tmp_path, f'[{{"prompt": "a"}}, {{"prompt": "{long}"}}]') == ["a", long]


class _Counted(json_values.JsonValues):
    def _read(self) -> None:
        super()._read()
        self.reads = getattr(self, "reads", 0) + 1


@pytest.mark.parametrize("wrong", ["oops", '"a\nb"', "[1 2]", "{1: 2}", "[" * 100_000])
def test_an_error_is_told_without_reading_on(tmp_path: Path, wrong: str) -> None:
    (tmp_path / "in.json").write_text(f'[{{"prompt": "a"}}, {{"prompt": {wrong}}},' + '{"prompt": "b"},\n' * 100_000)
    with (tmp_path / "in.json").open("rb") as stream:
        values = _Counted(stream)
        with pytest.raises(RowError, match="not valid JSON"):
            list(values)
    assert values.reads < 4


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_a_value_that_is_cut_anywhere_is_read_on(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "_CHUNK", chunk)
    values = [{"prompt": 'é\U0001f600"\\\n', "n": [-1.5e-10, 10**20, True, False, None, {}]}, {"prompt": "b"}]
    for text in (json.dumps(values), json.dumps(values, ensure_ascii=False, indent=2), "[NaN, -Infinity, Infinity]"):
        (tmp_path / "in.json").write_text(text, encoding="utf-8")
        with (tmp_path / "in.json").open("rb") as stream:
            assert str([json.loads(one) for one in json_values.JsonValues(stream)]) == str(json.loads(text))
