"""docs/admin.md is run as a new admin would: its files are written, and its commands run in order, on a real Slurm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_jobs import ONE_CORE

pytestmark = [pytest.mark.ranks, pytest.mark.slurm, pytest.mark.admins]

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "admin.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(console|toml)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What an admin would see of the commands that tell something.
SEEN = {
    "--version": "vllm-hpc ",
    "profiles init": "Wrote vllm-hpc.toml: profile borealis, 1 queue.",
    "profiles show": "# ",
    "profiles check": "rehearsal can be submitted, says sbatch --test-only",
    "templates check": ", sbatch",
    "render": "#SBATCH --nodes=2",
    "status": "COMPLETED",
    "plan": "layout",
}
# Lines that run jobs, or are of one: half a minute, and in test-full.
OF_JOBS = ("submit", "--on-nodes", "status first")
# What doctor rightly says of nodes whose GPUs are files.
WITHOUT_GPUS = {"gpus", "torch", "all-reduce"}


def lines_of(block: str) -> Iterator[str]:
    yield from (line for line in block.replace("\\\n", " ").splitlines() if line.strip())


class Sandbox:
    """A home, a site's folder and a working directory of nobody, with vllm-hpc of this tree on PATH."""

    def __init__(self, folder: Path) -> None:
        self.work, self.home, self.etc = folder / "work", folder / "home", folder / "etc"
        self.scratch = folder / "scratch"
        for one in (self.work, self.home, self.etc, self.scratch, folder / "bin"):
            one.mkdir()
        command = folder / "bin" / "vllm-hpc"
        command.write_text(f'#!/bin/sh\nexec {sys.executable} -m vllm_hpc "$@"\n')
        command.chmod(0o755)
        self.environment = {
            **os.environ,
            **ONE_CORE,
            "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_CONFIG_DIRS": str(self.etc / "xdg"),
        }
        self.environment.pop("VLLM_HPC_PROFILE", None)

    def run(self, line: str) -> str:
        """Run a line of the page, whose /etc is the sandbox's. Jobs have a rank a node: the cluster has two cores."""
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.environment[name] = value
            return ""
        line = line.replace("/etc/xdg", str(self.etc / "xdg"))
        if any(words in line for words in OF_JOBS[:2]):
            line += " --gpus-per-node 1"
        done = subprocess.run(
            ["bash", "-euc", line], cwd=self.work, env=self.environment, capture_output=True, text=True, timeout=300
        )
        faults = set(re.findall(r"^fail +(\S+)", done.stdout, re.MULTILINE)) - WITHOUT_GPUS
        is_doctors = "--on-nodes" in line and done.returncode == 1 and not faults
        assert is_doctors or done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout

    def write(self, block: str) -> None:
        """Write what a block says into the file that its first line names; its /scratch is the sandbox's."""
        first, _, rest = block.replace("/scratch", str(self.scratch)).partition("\n")
        if first == "# below [profiles.borealis] in vllm-hpc.toml":
            path, header = self.work / "vllm-hpc.toml", "[profiles.borealis]\n"
            before, after = path.read_text().split(header)
            path.write_text(f"{before}{header}{rest}{after}")
        elif first.startswith("# ~/"):
            path = self.home / first.removeprefix("# ~/")
            path.parent.mkdir(parents=True)
            path.write_text(rest)
        else:  # the way of those whose machine is in the gallery
            assert 'extends = "site/' in block


@pytest.fixture
def sandbox(tmp_path: Path, slurm: None) -> Sandbox:
    return Sandbox(tmp_path)


@pytest.mark.parametrize(
    "runs_jobs",
    [pytest.param(False, id="on the login node"), pytest.param(True, id="jobs too", marks=pytest.mark.full)],
)
def test_the_page_works_from_its_top_to_its_end(sandbox: Sandbox, runs_jobs: bool) -> None:
    ran = []
    for kind, block in BLOCK.findall(PAGE):
        if kind == "toml":
            sandbox.write(block)
            continue
        for line in lines_of(block):
            if not runs_jobs and any(words in line for words in OF_JOBS):
                continue
            said = sandbox.run(line)
            ran.append(line)
            for words, seen in SEEN.items():
                assert words not in line or seen in said, f"{line}\n{said}"
    assert len(ran) > (15 if runs_jobs else 12)
    shown = sandbox.run("vllm-hpc profiles show borealis --origin")
    assert re.search(r'account = "my_project" +# \S*\.config/vllm-hpc/config\.toml:2', shown)
    assert re.search(r"max_nodes = 2 +# \S*xdg/vllm-hpc/config\.toml:\d+", shown)
    assert re.search(r'required = \["account"\] +# \S*xdg/vllm-hpc/config\.toml:\d+', shown)
    assert [path.name for path in sandbox.scratch.glob("*/vllm-hpc-runs/first")] == ["first"] * runs_jobs


def test_every_command_of_the_page_is_in_a_block_that_is_run() -> None:
    """Those in the text are forms of commands that are run, or lead to another page."""
    run = {" ".join(line.split()[1:3]) for _, block in BLOCK.findall(PAGE) for line in lines_of(block)}
    named = {" ".join(words.split()[1:3]) for words in re.findall(r"`(vllm-hpc [^`]+)`", PAGE)}
    elsewhere = {"submit --profile", "fetch", "templates init"}
    assert {one for one in named if one not in run} <= elsewhere
