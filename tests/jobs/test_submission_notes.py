"""What is to be said of a submission reaches whoever submits: a note on the command line, a warning in Python."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest

import vllm_hpc
from tests.conftest import Cli

SAID = "1 row: copied, and not applied: 'temperature'"


def write(folder: Path, *rows: object) -> str:
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "in.jsonl"


def test_python_warns_of_what_the_command_line_notes(desk: Path, model: Path, run_cli: Cli) -> None:
    given = write(desk, {"prompt": "a", "temperature": 0}, {"prompt": "b"})
    with pytest.warns(UserWarning, match=f"^{SAID}") as caught:
        vllm_hpc.submit(str(model), input=given, scheduler="slurm", nodes=1, tp=1)
    assert {Path(one.filename).name for one in caught} == {Path(__file__).name}, "the caller's line, as in a notebook"
    outcome = run_cli("submit", model, "--input", given, "--scheduler", "slurm", "--nodes", "1", "--tp", "1")
    assert f"Note: {SAID}" in outcome.err


def test_a_warning_as_an_error_submits_nothing(desk: Path, model: Path) -> None:
    given = write(desk, {"prompt": "a", "temperature": 0})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=SAID):
            vllm_hpc.submit(str(model), input=given, scheduler="slurm", nodes=1, tp=1)
    assert not (desk / "runs").exists()


def test_without_notes_there_is_no_warning(desk: Path, model: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        vllm_hpc.submit(str(model), input=write(desk, {"prompt": "a"}), scheduler="slurm", nodes=1, tp=1)
