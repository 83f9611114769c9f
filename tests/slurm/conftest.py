"""A real Slurm of two virtual nodes, up for as long as the tests run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_jobs import require

CLUSTER = Path(__file__).parent / "cluster.sh"


def cluster(*arguments: str) -> str:
    """Call cluster.sh. Raises AssertionError with what it said."""
    done = subprocess.run([str(CLUSTER), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def _start(arguments: list[str]) -> Iterator[None]:
    needed = ["slurmctld", "slurmd", "munged", *(["slurmdbd", "mariadbd"] if arguments else [])]
    missing = [name for name in needed if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    require(os.geteuid() == 0, "a Slurm can only be started by root")
    require(not missing, f"not installed: {', '.join(missing)}")
    name, value = cluster("env").strip().split("=")
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        cluster("up", *arguments)
        yield
    finally:
        cluster("down")
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@pytest.fixture(scope="module")
def slurm() -> Iterator[None]:
    """Without accounting."""
    yield from _start([])


@pytest.fixture(scope="module")
def slurm_with_accounting() -> Iterator[None]:
    """With slurmdbd and MariaDB."""
    yield from _start(["--accounting"])
