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


def test_the_refusal_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, model = tmp_path / "run", tmp_path / "whole"
    for folder in (run, model, tmp_path / "mine", tmp_path / "bare"):
        folder.mkdir()
    for step in (500, 1000, 90):
        make_adapter(run / f"checkpoint-{step}")
    make_adapter(tmp_path / "mine/my sql")
    (model / "config.json").write_text("{}")
    said = {
        "run": f"name the adapter in it, as --lora {run}/checkpoint-1000",
        "mine": f"name the adapter in it, as --lora '{tmp_path}/mine/my sql'",
        "whole": "it is a whole model: give it as MODEL, without --lora",
        "bare": "name a folder with adapter_config.json, as PEFT writes it",
        "nowhere": "name a folder with adapter_config.json, as PEFT writes it",
        "run/checkpoint-90/adapter_model.safetensors": f"name its folder, '{run}/checkpoint-90'",
        "org/sql-lora": "get it with 'hf download org/sql-lora --local-dir sql-lora', and use --lora sql-lora",
        "x=org/sql-lora": "get it with 'hf download org/sql-lora --local-dir sql-lora', and use --lora sql-lora",
    }
    for given, words in said.items():
        with pytest.raises(RequestError) as raised:
            find_adapters([given])
        assert str(raised.value).endswith(words), raised.value
        assert str(raised.value).startswith(f"--lora {given!r} is not an adapter: ")


def test_plan_says_what_submit_refuses(run_cli: Cli, model: Path) -> None:
    folder = make_adapter(model.parent / "tuned", {**CONFIG, "peft_type": "PROMPT_TUNING"})
    for given, word in (("nowhere", "not an adapter"), (folder, "PROMPT_TUNING"), (model, "it is a whole model")):
        told = run_cli("plan", model, "--scheduler", "slurm", "--lora", given)
        assert (told.code, "Note: submit refuses this: --lora" in told.err, word in told.err) == (0, True, True), told
        printed = json.loads(run_cli("plan", model, "--scheduler", "slurm", "--lora", given, "--json").out)
        assert any(word in reason for reason in printed["reasons"])


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
