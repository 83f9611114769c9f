"""A working directory in which somebody left modules with the names of those that Python, vllm-hpc and ranks import."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.hostile.accounts import VLLM_HPC
from tests.real_jobs import write_input

pytestmark = pytest.mark.trust

# Whoever imports it leaves the module's name in a file.
_PLANTED = "open({mark!r}, 'a').write(__name__ + '\\n')\nraise ImportError('a planted module')\n"


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory. What is imported of it is named in ``imported``, beside it."""
    folder = tmp_path / "trap"
    folder.mkdir()
    text = _PLANTED.format(mark=str(tmp_path / "imported"))
    for name in {*sys.stdlib_module_names, *packages_distributions(), "sitecustomize", "usercustomize"}:
        if name.isidentifier():
            (folder / f"{name}.py").write_text(text)
    monkeypatch.chdir(folder)
    return folder


def imported(trap: Path) -> str:
    mark = trap.parent / "imported"
    return mark.read_text() if mark.exists() else ""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*VLLM_HPC, *words], capture_output=True, text=True, timeout=300)


def test_planted_modules_are_imported_by_an_unsafe_python(trap: Path) -> None:
    subprocess.run([sys.executable, "-c", "import psutil"], capture_output=True)
    assert imported(trap) == "psutil\n"


@pytest.mark.ranks
def test_every_command_runs(trap: Path) -> None:
    rows = str(write_input(trap.parent / "rows.jsonl", [{"prompt": "a"}] * 3))
    options = ["--rehearse", "--scheduler", "local", "--input", rows, "--job-dir", str(trap.parent / "runs")]
    done = run("submit", *options, "--name", "first", "--wait")
    assert (done.returncode, imported(trap)) == (0, ""), done.stderr
    job = str(trap.parent / "runs" / "first")
    # A job's own folder may be a project's, in which others write.
    for name in ("psutil", "types", "select", "json", "torch"):
        (trap.parent / "runs" / "first" / f"{name}.py").write_text((trap / f"{name}.py").read_text())
    for words in (
        ["plan", *options[:-2]], ["render", *options[:-2]], ["status", job], ["list", "--job-dir", job], ["logs", job],
        ["collect", job], ["resume", job], ["cancel", job], ["tune", "--help"], ["--version"],
    ):  # fmt: skip
        done = run(*words)
        assert "Traceback" not in done.stderr
        assert (done.returncode in (0, 1, 2), imported(trap)) == (True, ""), (words, done.stderr)
