"""A victim and an attacker, in a folder that both can traverse."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from tests.hostile.accounts import Account, make_account, why_not


class Neighbours(NamedTuple):
    """Two users of one machine, and a folder of their project: setgid, and both may write to it."""

    victim: Account
    attacker: Account
    project: Path


@pytest.fixture
def neighbours() -> Iterator[Neighbours]:
    """Two fresh users; whatever they left running is ended, and what they left behind removed."""
    # Other runs on this machine, and other workers of this one, end the processes of their own users.
    run = os.getpid() % 1900
    common = Path(tempfile.mkdtemp(prefix="vllm-hpc-hostile-", dir="/tmp"))
    common.chmod(0o755)
    if reason := why_not(common):
        shutil.rmtree(common)
        pytest.skip(reason)
    victim, attacker = (
        make_account(name, 2 * run + place, common, 64_900 + run % 100)
        for place, name in enumerate(("victim", "attacker"))
    )
    project = common / "project"
    project.mkdir()
    os.chown(project, victim.uid, victim.group)
    project.chmod(0o2770)
    yield Neighbours(victim, attacker, project)
    left = [process for one in (victim, attacker) for process in one.processes()]
    for process in left:
        with suppress(psutil.NoSuchProcess):  # it has just ended by itself
            process.kill()
    psutil.wait_procs(left, timeout=30)
    shutil.rmtree(common)


@pytest.fixture
def clients(neighbours: Neighbours) -> dict[str, str]:
    """PATH with clients of Slurm that note what they are called with, in a file that everybody can write."""
    folder = neighbours.project.parent / "bin"
    folder.mkdir()
    log = folder / "log"
    log.touch()
    log.chmod(0o666)
    for name in ("squeue", "scontrol", "sacct", "scancel", "sbatch"):
        client = folder / name
        client.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{"echo 4711" if name == "sbatch" else ""}\n')
        client.chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}", "LOG": str(log)}
