"""Names in rows' sampling that are nobody's: said before a job is queued, and refused if no row can be run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.conftest import Cli
from tests.crafted import write_lines
from vllm_hpc.engine.rehearsal.rows import RehearsedParams
from vllm_hpc.jobfolder.store_input import Intake
from vllm_hpc.spec import vllm_arguments
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.sampling_names import KNOWN, misspelt

pytestmark = pytest.mark.trust


def rows(*samplings: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": "a", "sampling": sampling} for sampling in samplings]


def test_file_in_which_every_row_is_misspelt_is_refused(desk: Path, model: Path, run_cli: Cli) -> None:
    write_lines(desk / "in.jsonl", rows(*[{"temprature": 0.5}] * 1000))
    for command in ("plan", "submit"):
        done = run_cli(command, "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "run")
        if command == "plan":  # reads the first rows of a large file only
            continue
        assert done.code == 2
        assert done.err == (
            "Error: in.jsonl:1: in 'sampling', vLLM has no 'temprature' (did you mean 'temperature'?): "
            "correct it (no other row can be run)\n"
        )
    assert not (desk / "runs").exists()


@pytest.mark.parametrize("more", [{}, {"task": "embed"}])
def test_wrong_names_and_values_are_of_one_kind(tmp_path: Path, more: dict[str, Any]) -> None:
    """They are said in one sentence, and a file of nothing else is refused, whatever the job makes of it."""
    wrong = [{**row, **more} for row in rows({"temprature": 1}, {"top_p": 7})]
    write_lines(tmp_path / "a.jsonl", wrong)
    with pytest.raises(InputError, match=r"a\.jsonl:1: in 'sampling', .*: correct it \(no other row can be run\)"):
        list(Intake(str(tmp_path / "a.jsonl")).rows())
    write_lines(tmp_path / "a.jsonl", [*wrong, *rows({})])
    some = Intake(str(tmp_path / "a.jsonl"))
    assert len(list(some.rows())) == 3
    said = [note for note in some.notes(Request(model="m")) if "in 'sampling'" in note]
    assert [note[:21] for note in said] == ["2 rows will become er"]
    assert "vLLM has no 'temprature' (did you mean 'temperature'?), 'top_p' must be a number above 0" in said[0]


def test_one_misspelt_row_is_said_and_the_others_run(desk: Path, model: Path, run_cli: Cli) -> None:
    write_lines(desk / "in.jsonl", rows({"top_p": 0.5}, {"topp": 0.5}, {"temprature": None}))
    done = run_cli("submit", "model", "--input", "in.jsonl", "--scheduler", "slurm", "--name", "run")
    assert done.code == 0
    assert "Note: 1 row will become an error row: in 'sampling', vLLM has no 'topp' (did you mean 'top_p'?)" in done.err
    assert "in.jsonl:2" in done.err


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_known_name_is_not_misspelt(name: str) -> None:
    assert misspelt({name: 1}) == []


def test_names_of_a_rehearsal_are_known() -> None:
    assert {field.name for field in msgspec.structs.fields(RehearsedParams)} - {"embeds"} <= KNOWN


@pytest.mark.parametrize("is_installed", [True, False])
def test_name_that_is_like_none_may_be_a_newer_vllms(monkeypatch: pytest.MonkeyPatch, is_installed: bool) -> None:
    names = frozenset({"zzz"}) if is_installed else frozenset()
    monkeypatch.setattr(vllm_arguments, "sampling_names", lambda: names)
    assert misspelt({"zzz": 1}) == []
    assert bool(misspelt({"qqqqq": 1})) == is_installed
    assert misspelt({"seeed": 1}) == ["vLLM has no 'seeed' (did you mean 'seed'?)"]


def test_names_of_the_installed_vllm_are_known() -> None:
    assert [misspelt({name: 1}) for name in vllm_arguments.sampling_names()] == [[]] * len(
        vllm_arguments.sampling_names()
    )


def test_each_file_counts(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", rows({"temprature": 1}))
    write_lines(tmp_path / "b.jsonl", rows({"temperature": 1}))
    both = Intake([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")])
    assert len(list(both.rows())) == 2
    assert "1 row will become an error row: in 'sampling', vLLM has no 'temprature'" in "".join(
        both.notes(Request(model="m"))
    )
    with pytest.raises(InputError, match=r"a\.jsonl:1: in 'sampling', vLLM has no 'temprature'"):
        list(Intake(str(tmp_path / "a.jsonl")).rows())
