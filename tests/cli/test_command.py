"""Options that are given twice: of one value they are refused, on every command."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.conftest import Cli
from vllm_hpc.cli import COMMANDS, cli
from vllm_hpc.spec.errors import RequestError

pytestmark = pytest.mark.inputs


def command(name: str) -> click.Command:
    """The command of that name, such as submit or profiles init."""
    found: click.Command | None = cli
    for word in name.split():
        assert isinstance(found, click.Group)
        found = found.get_command(click.Context(found), word)
    assert found is not None
    return found


def every_command() -> list[str]:
    """All that run something: of a group, its own."""
    found = []
    for name in COMMANDS:
        one = command(name)
        found += [f"{name} {inner}" for inner in one.commands] if isinstance(one, click.Group) else [name]
    return found


def valued(name: str) -> list[click.Option]:
    """The options of a command that take a value."""
    return [one for one in command(name).params if isinstance(one, click.Option) and not one.is_flag]


@pytest.mark.parametrize("name", every_command())
def test_an_option_with_one_value_is_refused_twice(name: str) -> None:
    for one in valued(name):
        if one.multiple:
            continue
        for first in one.opts:  # --partition, --queue: the same option
            with pytest.raises(RequestError, match=f"^{'/'.join(one.opts)} was given twice: give it once$"):
                command(name).make_context(name, ["model", first, "1", f"{one.opts[-1]}=1"])


def test_every_command_has_some_of_them_or_none() -> None:
    assert {name: len(valued(name)) for name in every_command() if len(valued(name)) < 2} == {
        "profiles list": 0, "profiles show": 0, "profiles check": 0, "templates check": 1, "templates init": 1,
        "bundle": 1, "completion": 0, "gpus list": 0,
    }  # fmt: skip


@pytest.mark.parametrize("option", [one.opts[0] for one in valued("tune") if one.multiple])
def test_an_option_with_several_values_is_not_refused(option: str) -> None:
    context = command("tune").make_context("tune", ["model", option, "a=1", option, "b=2"])
    assert len(context.params[option.removeprefix("--").replace("-", "_")]) == 2


@pytest.mark.parametrize("option", ["--sampling", "--engine", "--env", "--rehearse-set"])
@pytest.mark.parametrize("again", ["a=1", "a=2", "a=", "a=b=c"])
def test_a_key_is_refused_twice(model: Path, run_cli: Cli, option: str, again: str) -> None:
    outcome = run_cli("plan", "model", option, "a=1", option, "b=1", option, again)
    assert (outcome.code, outcome.err) == (2, f"Error: {option} a was given twice: give it once\n")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--tp", "2", "--tp", "2"], "--tp was given twice: give it once"),
        (["--name", "a", "--tp", "1", "--name", "b"], "--name was given twice: give it once"),
        (["--queue", "a", "--partition", "b"], "--partition/--queue was given twice: give it once"),
        (["--tp", "x", "--tp", "y"], "--tp was given twice: give it once"),
        (["--input", "a.jsonl", "b.jsonl"], "unexpected argument 'b.jsonl': repeat --input, or quote its pattern"),
        (["--input=a.jsonl", "b.jsonl", "c.jsonl"], "unexpected argument 'b.jsonl': repeat --input, or quote"),
        (["--input", "a", "b"], "Got unexpected extra argument (b): see"),
        (["--input", "a.jsonl", "other"], "Got unexpected extra argument (other): see"),
    ],
)  # fmt: skip
def test_it_is_one_line_before_anything_is_made(desk: Path, run_cli: Cli, args: list[str], said: str) -> None:
    before = sorted(desk.rglob("*"))
    outcome = run_cli("submit", "model", *args)
    assert outcome.code == 2
    assert outcome.err.startswith(f"Error: {said}")
    assert outcome.err.count("\n") == 1
    assert sorted(desk.rglob("*")) == before


def test_a_pattern_before_the_model_is_named_too(model: Path, run_cli: Cli) -> None:
    outcome = run_cli("plan", "--input", "a.jsonl", "b.jsonl", "model")
    assert outcome.err.startswith("Error: unexpected argument 'b.jsonl': repeat --input, or quote its pattern")


@pytest.mark.parametrize(
    "args", [["--json", "--json"], ["--dp", "2", "--array", "--array"], ["--directive", "-x", "--directive", "-x"]]
)
def test_what_is_the_same_twice_is_not_refused(model: Path, run_cli: Cli, args: list[str]) -> None:
    assert run_cli("plan", "model", "--scheduler", "slurm", *args).code == 0


@pytest.mark.parametrize("args", [["--help"], ["--help", "--tp", "1"], ["--tp", "1", "--tp", "2", "--help"]])
def test_help_is_shown_whatever_stands_beside_it(run_cli: Cli, args: list[str]) -> None:
    outcome = run_cli("plan", *args)
    assert outcome.code == 0
    assert outcome.out.startswith("Usage: ")
