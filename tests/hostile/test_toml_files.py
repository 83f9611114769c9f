"""A job.toml and a profile's file with anything in them, or that are no files: refused soon, in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Cli

pytestmark = pytest.mark.trust

CONTENTS = {
    "nul": b"name = 'a\0b'\n",
    "only nul": b"\0" * 100,
    "utf-16": "qos = 'a'\n".encode("utf-16"),
    "latin-1": b"qos = '\xe9'\n",
    "lone cr": b"qos = 'a'\rtime = '1'\r",
    "key twice": b"time = '1'\ntime = '2'\n",
    "table twice": b"[env]\nA = '1'\n[env]\nB = '2'\n",
    "key of a table twice": b"env.A = '1'\n[env]\nB = '2'\n",
    "deep list": b"env = " + b"[" * 100_000,
    "deep table": b"env = " + b"{a = " * 20_000,
    "long key": b"env." + b"a." * 20_000 + b"a = 1\n",
    "long quoted key": b"env." + b'"a" . ' * 20_000 + b"a = 1\n",
    "long header": b"[env." + b"a." * 20_000 + b"a]\n",
    "huge": b"# x\n" * 200_000,
    "not toml": b"\x7fELF\x01\x02",
    "escaped quotes": b'qos = "' + b'\\"' * 200_000 + b"\n",
    "open text": b'qos = """' + b"a\n" * 1000,
    "escape in a key": b'"a\\u001b[31m" = 1\n',
    "escape in a value": b'name = "a\\u001b[31m"\ntime = "\\u001b"\n',
    "empty key": b"'' = 1\n",
    "large number": b"time = " + b"9" * 5000,
    "number for a text": b"qos = 5\ntime = 5\n",
    "list for a table": b"env = [1]\n",
    "date": b"time = 1979-05-27\n",
    "text for a list": b"directive = 'a'\nsetup = 'a'\n",
    "numbers in a table": b"env = { A = 1 }\n",
}
ACCEPTED = {"bom": b"\xef\xbb\xbf", "crlf": b"\r\n\r\n", "comment": b"# a.b.c.d\n"}


def _huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)


NO_FILES: dict[str, Callable[[Path], None]] = {
    "fifo": os.mkfifo,
    "folder": os.mkdir,
    "broken link": lambda path: path.symlink_to("nowhere"),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse": _huge,
}


@pytest.fixture(params=["job.toml", "profile"])
def file(request: pytest.FixtureRequest, desk: Path) -> tuple[Path, list[str]]:
    """The file, and the words of a plan that reads it."""
    (desk / "job").mkdir()
    options = ["plan", "--scheduler", "slurm"]
    if request.param == "profile":
        return desk / "vllm-hpc.toml", [*options, "--rehearse", "--profile", "p"]
    return desk / "job" / "job.toml", [*options, "job"]


def header(path: Path) -> bytes:
    return b"rehearse = true\n" if path.name == "job.toml" else b"[profiles.p]\n"


@pytest.mark.parametrize("name", CONTENTS)
def test_its_content_is_refused_in_one_line(file: tuple[Path, list[str]], run_cli: Cli, name: str) -> None:
    path, words = file
    content = CONTENTS[name]
    path.write_bytes(content if name == "utf-16" else header(path) + content)
    began = time.monotonic()
    outcome = run_cli(*words)
    assert time.monotonic() - began < 60
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1 and len(outcome.err) < 1000
    assert path.name in outcome.err


@pytest.mark.parametrize("name", NO_FILES)
def test_what_is_no_file_is_refused_in_one_line(file: tuple[Path, list[str]], run_cli: Cli, name: str) -> None:
    path, words = file
    NO_FILES[name](path)
    began = time.monotonic()
    outcome = run_cli(*words)
    assert time.monotonic() - began < 60
    assert (outcome.code, outcome.out) == (2, "")
    assert len(outcome.err.splitlines()) == 1 and path.name in outcome.err


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_editors_write_is_read(file: tuple[Path, list[str]], run_cli: Cli, name: str) -> None:
    path, words = file
    path.write_bytes(ACCEPTED[name] + header(path) + b"qos = 'a'\n")
    assert run_cli(*words).code == 0
