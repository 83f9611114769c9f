"""A PBS of at least two hosts: the one on PATH, whose jobs are an ordinary user's, or else a stand-in."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.real_jobs import require, wait_for

STANDIN = Path(__file__).parent / "standin"


@pytest.fixture
def pbs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names of PBS's hosts. A stand-in is one test's own, and nothing that it has started outlives the test."""
    if _has_real_pbs():
        yield _hosts()
        return
    # Jobs on one machine meet on ports that follow from their ids, and these from the folder's name: no two are equal.
    spool = Path(tempfile.mkdtemp(prefix="standin-"))
    monkeypatch.setenv("STANDIN_SPOOL", str(spool))
    monkeypatch.setenv("PATH", str(STANDIN), prepend=":")
    try:
        yield _hosts()
    finally:
        _end_all(spool)
        shutil.rmtree(spool)


@pytest.fixture
def server(pbs: list[str]) -> Path:
    """The spool of the stand-in: files in it make it a server without a history, or one that is down (standin.py)."""
    if _has_real_pbs():
        pytest.skip("a real PBS is not reconfigured by a test")
    return Path(os.environ["STANDIN_SPOOL"])


@cache
def _has_real_pbs() -> bool:
    """Whether there is one that takes jobs of this user's: root can submit nothing to it."""
    if os.geteuid() == 0 or shutil.which("qsub") is None:
        return False
    version = subprocess.run(["qsub", "--version"], capture_output=True, text=True).stdout
    return "pbs_version" in version and "stand-in" not in version


def _hosts() -> list[str]:
    nodes = subprocess.run(["pbsnodes", "-a"], capture_output=True, text=True, timeout=60).stdout
    hosts = re.findall(r"^(\S+)\n(?:\s+.*\n)*?\s+state = (?:free|job-busy)", nodes, re.MULTILINE)
    require(len(hosts) >= 2, f"PBS has {len(hosts)} host(s) that are up, and two are needed")
    return sorted(hosts)


def _end_all(spool: Path) -> None:
    """Kill what runs jobs of a stand-in, and all that these have started."""

    def is_ended() -> bool:
        found = _processes_of(spool)
        for process in found:
            process.kill()
        return not found

    wait_for(is_ended, f"no process is left: {_processes_of(spool)}", 30)


def _processes_of(spool: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get("STANDIN_SPOOL") == str(spool)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found
