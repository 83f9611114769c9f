"""--lora: what is an adapter is found, what is none is refused before anything is submitted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Cli
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.job_definition import make_request
from vllm_hpc.spec.lora import Adapter, find_adapters

CONFIG = {"peft_type": "LORA", "r": 8, "rank_pattern": {"layers.0": 32}}


def make_adapter(folder: Path, config: Any = CONFIG, weights: str = "adapter_model.safetensors") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    (folder / weights).touch()
    return folder


def test_an_adapter_has_a_name_a_folder_and_its_largest_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_adapter(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    assert find_adapters(["mine"]) == (Adapter("mine", str(folder), 32),)
    assert find_adapters(["sql=mine", f"chat={folder}"]) == (
        Adapter("sql", str(folder), 32),
        Adapter("chat", str(folder), 32),
    )
    strange = make_adapter(tmp_path / "a=b")
    assert find_adapters([str(strange)]) == (Adapter("a=b", str(strange), 32),)


@pytest.mark.parametrize(
    ("config", "weights", "word"),
    [
        ("{", "adapter_model.safetensors", "not valid JSON"),
        ([], "adapter_model.safetensors", "must be a JSON object"),
        ({}, "adapter_model.safetensors", "rank"),
        ({"r": "8"}, "adapter_model.safetensors", "rank"),
        ({**CONFIG, "peft_type": "IA3"}, "adapter_model.safetensors", "IA3"),
        ({**CONFIG, "use_dora": True}, "adapter_model.safetensors", "DoRA"),
        (CONFIG, "model.safetensors", "weights"),
    ],
)
def test_what_is_no_adapter_is_refused(tmp_path: Path, config: Any, weights: str, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        find_adapters([str(make_adapter(tmp_path / "mine", config, weights))])


def test_names_must_differ(tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "mine")
    with pytest.raises(RequestError, match="more than once"):
        find_adapters([str(folder), str(folder)])


@pytest.mark.parametrize(("given", "word"), [("nowhere", "not an adapter"), ("=x", "NAME=PATH"), ("x=", "NAME=PATH")])
def test_the_command_line_refuses_it_in_a_line(run_cli: Cli, model: Path, given: str, word: str) -> None:
    outcome = run_cli("render", model, "--scheduler", "slurm", "--lora", given)
    assert outcome.code == 2
    assert word in outcome.err
    assert outcome.err.startswith("Error: --lora")


def test_paths_of_a_job_definition_are_relative_to_it(tmp_path: Path) -> None:
    definition = tmp_path / "job.toml"
    definition.write_text('model = "org/name"\nlora = ["mine", "sql=other", "/absolute"]\n')
    assert make_request({"model": str(tmp_path)}).lora == [
        str(tmp_path / "mine"),
        f"sql={tmp_path / 'other'}",
        "/absolute",
    ]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"sampling": {"min_p": float("nan")}}, "nan"),
        ({"sampling": {"seed": 4}, "seed_rows": True}, "--seed-rows"),
        ({"lora": "mine"}, "--lora"),
    ],
)
def test_requests_that_cannot_be_meant(options: dict[str, Any], word: str) -> None:
    with pytest.raises(RequestError, match=word):
        make_request({"model": "org/name", **options})
