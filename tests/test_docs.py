"""The documentation is tested: every command is in the README, and every command line in it parses."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

import vllm_hpc
from vllm_hpc.cli import COMMANDS, cli
from vllm_hpc.rows.row import INPUT_FIELDS, OUTPUT_FIELDS
from vllm_hpc.spec import errors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def command_lines(text: str) -> list[str]:
    """The lines of ```console and ```bash blocks that call vllm-hpc, continued lines joined."""
    blocks = re.findall(r"^```(?:console|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    joined = "\n".join(blocks).replace("\\\n", " ")
    lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
    return [line for line in lines if line.startswith("vllm-hpc ")]


def check_command_line(line: str) -> None:
    """Parse as the command would, without running it. Raises click.UsageError."""
    words = shlex.split(re.split(r"\s[|>;&]", line)[0], comments=True)[1:]
    if words[0].startswith("-"):
        return
    command = cli.get_command(click.Context(cli), words[0])
    assert command is not None, f"no command {words[0]!r}: {line}"
    if isinstance(command, click.Group):  # profiles init
        words = words[1:]
        command = command.get_command(click.Context(command), words[0])
        assert command is not None, f"no such command: {line}"
    try:
        command.make_context(words[0], words[1:])
    except click.exceptions.Exit:
        return  # --help


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command: str) -> None:
    assert re.search(rf"vllm-hpc {command}\b", README)


def test_every_command_line_in_the_readme_parses() -> None:
    found = command_lines(README)
    assert found
    for line in found:
        check_command_line(line)


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_every_command_line_in_the_docs_parses(page: Path) -> None:
    for line in command_lines(page.read_text(encoding="utf-8")):
        check_command_line(line)


def test_every_error_is_public_and_in_the_readme() -> None:
    made = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert made <= set(vllm_hpc.__all__)
    assert all(getattr(vllm_hpc, name) is getattr(errors, name) for name in made)
    assert [name for name in made if f"`{name}`" not in README and f"vllm_hpc.{name}" not in README] == []


def test_every_public_name_is_in_the_readme() -> None:
    names = set(vllm_hpc.__all__) - {name for name in vars(errors) if name in vllm_hpc.__all__}
    # What calls return and give, and what is made of options.
    unnamed = {"Job", "Plan", "Prepared", "RankContext", "Request", "Script", "Status", "Summary", "Sweep"}
    assert [name for name in names - unnamed if f"vllm_hpc.{name}(" not in README] == []
    assert all(getattr(vllm_hpc, name) for name in vllm_hpc.__all__)


def test_every_field_of_a_row_out_is_documented() -> None:
    page = (ROOT / "docs" / "rows.md").read_text(encoding="utf-8")
    assert [name for name in OUTPUT_FIELDS | INPUT_FIELDS - {"batch"} if f"`{name}`" not in page] == []


def test_the_check_of_command_lines_sees_a_mistake() -> None:
    text = "```console\n$ vllm-hpc submit \\\n    demo --nodez 2  # two\nSubmitted\n```\n```python\nvllm-hpc no\n```\n"
    (line,) = command_lines(text)
    with pytest.raises(click.UsageError, match="--nodez"):
        check_command_line(line)


def test_the_changelog_says_something() -> None:
    assert (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").strip()


def test_nothing_says_s_in_brackets() -> None:
    """A count is written out: "1 row", "2 rows" (spec/words.py). The one exception is a message of Slurm's own."""
    of_slurm = re.compile(r"oom-kill event\(s\)")
    kept = {".py", ".sh", ".j2", ".toml", ".md", ".yaml"}
    rooms = (ROOT / room for room in ("vllm_hpc", "templates", "docs", "jobs", "benchmarks"))
    files = [file for room in rooms for file in room.rglob("*") if file.suffix in kept] + list(ROOT.glob("*.md"))
    found = [
        f"{file.relative_to(ROOT)}:{number}"
        for file in sorted(files)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(r"\w\(e?s\)", of_slurm.sub("", line))
    ]
    assert found == []
