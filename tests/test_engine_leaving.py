"""A rank that is done leaves with 0, although a library would abort as the interpreter ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

_ABORTS = """
import os, sys
from vllm_hpc.engine.leaving import Leaving

leaving = Leaving()

class Library:
    def __del__(self, abort=os.abort):
        abort()

import atexit
atexit.register(print, "handlers run")
kept = Library()
print("the last words", end="")
"""


def _end(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", _ABORTS + code], capture_output=True, text=True, timeout=60)


def test_a_rank_that_is_done_is_not_ended_by_a_library() -> None:
    ended = _end("leaving.is_done = True")
    assert (ended.returncode, ended.stdout) == (0, "the last wordshandlers run\n"), ended


@pytest.mark.parametrize("code", ["", "raise SystemExit(3)"])
def test_one_that_is_not_done_ends_as_it_does(code: str) -> None:
    """Which is how a library's abort shows, where nothing was done."""
    assert _end(code).returncode == -6


def test_an_error_after_the_work_keeps_its_exit_code() -> None:
    ended = _end("leaving.is_done = True\ndel Library.__del__\nraise OSError('disk full')")
    assert ended.returncode == 1 and "disk full" in ended.stderr
