"""What a shell's Tab completes, quickly, and without asking a scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_job
from vllm_hpc.cli import cli
from vllm_hpc.jobs.known_jobs import remember

pytestmark = pytest.mark.notebooks

PROFILES = """
[profiles.mine]
scheduler = "slurm"
job_dir = "elsewhere"
[profiles.mine.queues.gpu-long]
description = "a week"
[profiles.mine.queues.gpu-short]
"""


@pytest.fixture
def completed(desk: Path) -> Completed:
    (desk / "vllm-hpc.toml").write_text(PROFILES)
    for name in ("first", "second", "sweep-1"):
        make_job(desk / "runs" / name)
    make_job(desk / "elsewhere" / "there")
    remember(make_job(desk / "other" / "far"))
    (desk / "runs" / "a\nb\x1b").mkdir()
    (desk / "runs" / "notes.txt").touch()
    return Completed()


class Completed:
    """What click completes of a line, as the shell asks it."""

    def __call__(self, *words: str) -> list[str]:
        return [item for _, item in self.items(*words)]

    def items(self, *words: str) -> list[tuple[str, str]]:
        from click.shell_completion import BashComplete

        found = BashComplete(cli, {}, "vllm-hpc", "_VLLM_HPC_COMPLETE").get_completions(list(words[:-1]), words[-1])
        return [(item.type, item.value) for item in found]


CASES: list[tuple[list[str], list[str]]] = [
    (["st"], ["status"]), (["show", ""], ["first", "second", "sweep-1", "far"]), (["show", "s"], ["second", "sweep-1"]),
    (["status", "fa"], ["far"]), (["status", "77-"], ["77-1000"]), (["cancel", "first", "sweep"], ["sweep-1"]),
    (["cancel", "first", "f"], ["far"]), (["diff", "first", "se"], ["second"]), (["clean", "sw"], ["sweep-1"]),
    (["show", "--job-dir", "elsewhere", "th"], ["there"]), (["show", "--profile", "mine", "th"], ["there"]),
    (["logs", "first", "--profile", "m"], ["mine"]), (["submit", "--gpu", "h200"], ["h200"]),
    (["submit", "--profile", "mine", "--partition", ""], ["gpu-long", "gpu-short"]),
    (["submit", "--queue", "gpu"], []), (["submit", "--profile", "no", "--partition", "g"], []),
    (["submit", "--template", "slurm"], ["slurm.sbatch.j2"]), (["submit", "--rows-missing-from", "se"], ["second"]),
    (["list", "--state", "RUNNING,comp"], ["RUNNING,COMPLETED"]), (["completion", "z"], ["zsh"]),
    (["list", "--prof"], ["--profile"]), (["submit", "dem"], ["demo", "dem"]),
    (["show", "--job-dir", "\0", "x"], ["x"]), (["--vers"], ["--version"]),
]  # fmt: skip


@pytest.mark.parametrize(("words", "found"), CASES, ids=[" ".join(words).replace("\0", "NUL") for words, _ in CASES])
def test_names_are_completed(completed: Completed, words: list[str], found: list[str]) -> None:
    assert completed(*words) == found


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["submit", "--input", "a"], "file"), (["submit", "--script", ""], "file"), (["list", "--job-dir", "r"], "dir"),
        (["show", "runs/f"], "dir"), (["show", "./"], "dir"), (["submit", "--lora", ""], "dir"),
        (["submit", "m"], "dir"),
    ],
)  # fmt: skip
def test_files_are_left_to_the_shell(completed: Completed, words: list[str], kind: str) -> None:
    assert completed.items(*words) == [(kind, words[-1])]


def test_a_damaged_profile_or_a_folder_that_is_gone_completes_to_nothing(desk: Path) -> None:
    (desk / "vllm-hpc.toml").write_text("[profiles")
    find = Completed()
    assert find("submit", "--profile", "m") == find("submit", "--partition", "m") == []
    assert find.items("show", "x") == [("dir", "x")]


def test_no_scheduler_is_asked(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(*_: object, **__: object) -> None:
        raise AssertionError("a program was run")

    monkeypatch.setattr(subprocess, "Popen", ask)
    for words in (["show", ""], ["submit", "--partition", ""], ["submit", "--gpu", ""], ["submit", "--template", ""]):
        Completed()(*words)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_is_printed(run_cli: Cli, shell: str, tmp_path: Path) -> None:
    ran = run_cli("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert f"_VLLM_HPC_COMPLETE={shell}_complete" in ran.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ran.out.encode(), check=True)
    assert run_cli("completion", "tcsh").code == 2


def test_bash_completes_soon(desk: Path) -> None:
    """As bash asks: a process of its own, of which Python's start and click's are a part."""
    for number in range(500):
        (desk / "runs" / f"job-{number:03}").mkdir(parents=True)
    asked = {"COMP_WORDS": "vllm-hpc show job-49", "COMP_CWORD": "2", "_VLLM_HPC_COMPLETE": "bash_complete"}
    program = "import sys; sys.argv[0] = 'vllm-hpc'; from vllm_hpc.cli import main; main()"
    least = float("inf")
    for _ in range(3):
        began = time.process_time(), sum(os.times()[2:4])
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program],
            env={**os.environ, **asked},
            capture_output=True,
            check=True,
        )
        least = min(least, sum(os.times()[2:4]) - began[1])
    assert done.stdout.decode().split() == [f"plain,job-49{n}" for n in range(10)]
    loaded = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.decode().splitlines()}
    assert not loaded & {"rich", "jinja2", "submitit", "torch", "vllm", "asyncio"}
    assert least < 0.6  # of a processor; a third of that on an idle machine
