"""With --json an error is an object on stdout, too; stderr has its one line as before."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.notebooks


@pytest.mark.parametrize(
    ("args", "kind", "code"),
    [
        (["status", "nix"], "JobNotFoundError", 2),
        (["plan", "demo", "--nodez", "2"], "NoSuchOption", 2),
        (["plan", "demo", "--nodes", "two"], "BadParameter", 2),
        (["submit", "demo", "--name", "a/b"], "RequestError", 2),
        (["submit", "demo", "--name", "a", "--name", "b"], "RequestError", 2),
        (["profiles", "show", "nix"], "ProfileError", 2),
        (["plan", "\udcff"], "RequestError", 2),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else None,
)  # fmt: skip
def test_an_error_is_an_object(run_cli: Cli, args: list[str], kind: str, code: int) -> None:
    plain = run_cli(*args)
    assert (plain.code, plain.out) == (code, "")
    asked = run_cli(*args, "--json")
    assert (asked.code, asked.err) == (code, plain.err)
    error = json.loads(asked.out)["error"]
    assert (error["type"], error["exit_code"]) == (kind, code)
    assert plain.err == f"Error: {error['message']}\n"


@pytest.mark.parametrize("where", ["/dev/full", "closed"])
def test_a_stdout_that_takes_nothing_is_no_traceback(desk: Path, where: str) -> None:
    to = ">&-" if where == "closed" else f">{where}"
    ran = subprocess.run(
        ["bash", "-c", f'"$0" -m vllm_hpc status nix --json {to}', sys.executable], capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert ran.stderr.startswith("Error: no job 'nix'")
