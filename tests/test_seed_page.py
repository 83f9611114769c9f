"""docs/seed.md has a row for each heading of the example that this project started from, and what it names is there."""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

import pytest

from tests.conftest import Cli
from tests.test_docs import ROOT, check_command_line

pytestmark = pytest.mark.programs

# Every heading of that page, in its order.
HEADINGS = [
    "Overview",
    "Description",
    "Usage",
    "Code Reference",
    "Source Location",
    "CLI Usage",
    "Key Concepts",
    "External Launcher Mode",
    "Tensor Parallelism with Torchrun",
    "Deterministic Execution",
    "Output Handling",
    "Usage Examples",
    "Basic Tensor Parallel Inference",
    "Large Model Inference",
    "Accessing Distributed State",
    "Direct Model Access",
    "SLURM Integration",
    "Kubernetes with PyTorch Operator",
    "Advanced Tips from the Example",
    "Using CPU Process Group",
    "Using Device Process Group",
    "Direct Model Manipulation",
    "Performance Considerations",
    "Initialization Overhead",
    "Communication Patterns",
    "Scalability",
    "Debugging Distributed Issues",
    "Rank Output",
    "Environment Inspection",
    "Synchronization Barriers",
    "Related Pages",
]


class Line(NamedTuple):
    """A row of the page's table."""

    heading: str
    here: str
    test: str
    output: str

    def commands(self) -> list[str]:
        return re.findall(r"`(vllm-hpc [^`]+)`", self.here)


def read_page() -> list[Line]:
    text = (ROOT / "docs/seed.md").read_text(encoding="utf-8")
    table = text.split("| --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    return [Line(*(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])) for row in table.splitlines()]


PAGE = read_page()
COMMANDS = [command for line in PAGE for command in line.commands()]


def test_every_heading_has_its_row() -> None:
    assert [line.heading for line in PAGE] == HEADINGS
    assert [line.heading for line in PAGE if not line.commands() or not line.output] == []


@pytest.mark.parametrize("line", PAGE, ids=lambda line: line.heading)
def test_the_tests_that_a_row_names_are_there(line: Line) -> None:
    named = re.findall(r"`(tests/[\w/.]+\.py)::(\w+)`", line.test)
    assert named, line.test
    for file, function in named:
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8"), (file, function)


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_a_command_parses(command: str) -> None:
    check_command_line(command)


@pytest.mark.parametrize("command", sorted({line for line in COMMANDS if " jobs/" in line and "two-nodes" not in line}))
def test_a_command_on_a_folder_is_one_that_plans(command: str, run_cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planned as it stands: nothing is submitted, and the options go with what the folder says."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = shlex.split(command)[2:]
    folder = next(word for word in words if word.startswith("jobs/"))
    given = [word for word in words if word not in (folder, "--wait")]
    told = run_cli("plan", ROOT / folder, *given, "--gpus-per-node", "8")
    assert told.code == 0, told.err


def test_the_readme_links_it() -> None:
    assert "(docs/seed.md)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_links_lead_somewhere() -> None:
    text = (ROOT / "docs/seed.md").read_text(encoding="utf-8")
    for page, part in re.findall(r"\]\(([\w./-]+\.md)(?:#([\w-]+))?\)", text):
        linked = (ROOT / "docs" / page).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.+)$", linked, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
        assert not part or part in anchors, (page, part)
