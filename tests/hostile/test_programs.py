"""Files, names and objects that no sensible user gives as --script or --program: refused in a line, or taken safely."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tests.conftest import Cli
from tests.crafted import make_folder
from tests.hostile.conftest import Neighbours

pytestmark = pytest.mark.programs

_SECRET = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
CONTENTS: dict[str, bytes] = {
    "nul": b"x = 1\0\n",
    "nested": b"(" * 5000 + b")" * 5000,
    "deep": b"x=" + b"-" * 200_000 + b"1",
    "long": b"x=" + b"+".join([b"1"] * 100_000),
    "encoding": b"# coding: no-such\n",
    "not utf-8": b"x='\xff'\n",
    "tabs": b"if 1:\n\tx\n        y\n",
    "shell": b"#!/bin/bash\nset -e\n",
    "return": b"return 1\n",
    "large": bytes(5 << 20),
}


def check_refused(run_cli: Cli, *words: str) -> str:
    began = time.monotonic()
    outcome = run_cli("submit", *words, "--scheduler", "slurm")
    assert outcome.code == 2, outcome
    said = outcome.err.replace("\\n", " ")
    assert said.startswith("Error: ") and said.count("\n") == 1 and len(said) < 700
    assert time.monotonic() - began < 60
    assert not Path("runs").exists()
    return said


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_that_python_would_not_run(desk: Path, run_cli: Cli, content: bytes) -> None:
    Path("s.py").write_bytes(content)
    check_refused(run_cli, "--script", "s.py")
    check_refused(run_cli, "--rehearse", "--program", "s.py:P")


def test_what_is_no_regular_file(desk: Path, run_cli: Cli) -> None:
    os.mkfifo("pipe.py")
    Path("folder.py").mkdir()
    Path("loop.py").symlink_to("loop.py")
    with Path("huge.py").open("wb") as file:
        file.truncate(1 << 40)
    names = [
        "pipe.py",
        "folder.py",
        "loop.py",
        "huge.py",
        "none.py",
        "/dev/zero",
        "",
        "-",
        "~nobody-here/s.py",
        "a\nb.py",
    ]
    for name in [*names, "x" * 5000 + ".py", os.fsdecode(b"\xff.py")]:
        check_refused(run_cli, "--script", name)
        check_refused(run_cli, "--rehearse", "--program", f"{name}:P")


def test_a_job_definition_names_no_home_that_there_is(desk: Path, run_cli: Cli) -> None:
    Path("job").mkdir()
    for line in ("script = '~nobody-here/s.py'", "model = 'demo'\ntemplate_dir = '~nobody-here/t'"):
        Path("job/job.toml").write_text(f"{line}\n")
        check_refused(run_cli, "job")


def test_a_secret_in_code_is_not_copied(desk: Path, run_cli: Cli) -> None:
    Path("s.py").write_text(f"login('{_SECRET}')\ndef P(ctx): ...\n")
    for words in (["--script", "s.py"], ["--rehearse", "--program", "s.py:P"]):
        said = check_refused(run_cli, *words)
        assert "has hf_…, which looks like a secret" in said and _SECRET not in said


def test_names_reach_no_shell(desk: Path, run_cli: Cli) -> None:
    name = "a'b\"$(touch planted)`touch planted`;&.py"
    Path(name).write_text("print(1)\n")
    arguments = "--x '$(touch planted)' 'a\nb' \"it's\""
    outcome = run_cli("submit", "--script", name, "--script-args", arguments, "--scheduler", "slurm", "--name", "job")
    assert outcome.code == 0, outcome.err
    script = Path("runs/job/script.sbatch").read_text()
    assert "planted" not in script


def test_classes_in_circles_and_without_end(desk: Path, run_cli: Cli) -> None:
    Path("circle.py").write_text("class P(Q):\n def setup(self, ctx): ...\nclass Q(P): ...\n")
    lines = [f"class C{n}(C{n - 1}, C{n - 1}): ..." for n in range(1, 60)]
    Path("double.py").write_text("\n".join(["class C0: ...", *lines, "class P(C59):\n def setup(self, ctx): ...\n"]))
    lines = [f"class C{n}(C{n - 1}): ..." for n in range(1, 3000)]
    Path("chain.py").write_text("\n".join(["class C0: ...", *lines, "class P(C2999):\n def setup(self, ctx): ...\n"]))
    Path("here.py").write_text("from there import *\nfrom there import P\n")
    Path("there.py").write_text("from here import *\nfrom here import P\n")
    for name in ("circle", "double", "chain", "here"):
        check_refused(run_cli, "--rehearse", "--program", f"{name}.py:P")
    check_refused(run_cli, "--rehearse", "--program", "here:P")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('script = "a\\u0000b.py"', "--script 'j/a\\x00b.py' has a NUL, which no path has"),
        ('model = "m"\nprogram = "p\\u0000.py:P"', "--program 'j/p\\x00.py' has a NUL, which no path has"),
        ('model = "../m"\nlora = ["l\\u0000"]', "--lora 'j/l\\x00' has a NUL, which no path has"),
        ('script = "s.py"\nscript_args = ["\\u0000"]', "--script-args has a NUL, which no argument has: correct it"),
        ('script = ""', "--script '' cannot be read: it must be a regular file: name a Python file"),
        ('script = "s.py"\nscript_args = "--a b"', "--script-args must be a list of strings such as"),
        ('script = "s.py"\nrequeue_script = 1', "--requeue-script must be true or false"),
        ('model = "m"\nneeds_hooks = true', "unknown key 'needs_hooks'"),
    ],
)  # fmt: skip
def test_what_only_a_job_definition_can_say(desk: Path, run_cli: Cli, text: str, said: str) -> None:
    make_folder(desk / "m")
    Path("j").mkdir()
    Path("j/s.py").write_text("print(1)\n")
    Path("j/job.toml").write_text(f"{text}\n")
    assert said in check_refused(run_cli, "j")


@pytest.mark.parametrize(
    "line", ["model = 'm'\nprogram = 's.py:P'", pytest.param("script = 's.py'", marks=pytest.mark.full)]
)
def test_a_strangers_job_definition_runs_no_code(neighbours: Neighbours, line: str) -> None:
    victim, attacker, project = neighbours
    attacker.run(["mkdir", project / "job"], project)
    attacker.plant(project / "job" / "job.toml", f"{line}\n", 0o644)
    attacker.plant(project / "job" / "s.py", "print('planted')\n", 0o644)
    done = victim.vllm_hpc("render", "job", "--scheduler", "slurm", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    key = "program" if "program" in line else "script"
    assert f"'{key}' may run or be charged as yours, but 'job/job.toml' belongs to another user" in done.stderr


def test_a_strangers_link_to_ones_own_file_is_not_copied(neighbours: Neighbours) -> None:
    victim, attacker, project = neighbours
    victim.plant(victim.home / "own.py", "password = 'mine'\n", 0o600)
    attacker.run(["ln", "-s", victim.home / "own.py", project / "s.py"], project)
    done = victim.vllm_hpc("render", "--script", "s.py", "--scheduler", "slurm", cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert "is a link of another user" in done.stderr


@pytest.mark.full
def test_a_strangers_script_is_named(neighbours: Neighbours) -> None:
    """Who names it on the command line runs it, as with python; the submission says whose it is."""
    victim, attacker, project = neighbours
    attacker.plant(project / "s.py", "print(1)\n", 0o644)
    done = victim.vllm_hpc("plan", "--script", "s.py", "--scheduler", "slurm", cwd=project)
    assert done.returncode == 0
    assert f"--script: '{project}/s.py' belongs to another user ({attacker.uid})" in done.stdout
