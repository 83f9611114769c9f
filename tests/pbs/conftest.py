"""A PBS of at least two hosts, wherever one is on PATH; its jobs are an ordinary user's."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from tests.real_jobs import require


@pytest.fixture(scope="session")
def pbs() -> list[str]:
    """The names of PBS's hosts. Root can submit nothing to a real one."""
    require(shutil.which("qsub") is not None, "no PBS: qsub is not on PATH")
    version = subprocess.run(["qsub", "--version"], capture_output=True, text=True).stdout
    require("pbs_version" in version, "no PBS: this qsub is another scheduler's")
    require(os.geteuid() != 0 or "stand-in" in version, "PBS takes no jobs of root's: run these as another user")
    nodes = subprocess.run(["pbsnodes", "-a"], capture_output=True, text=True, timeout=60).stdout
    hosts = re.findall(r"^(\S+)\n(?:\s+.*\n)*?\s+state = (?:free|job-busy)", nodes, re.MULTILINE)
    require(len(hosts) >= 2, f"PBS has {len(hosts)} host(s) that are up, and two are needed")
    return sorted(hosts)
