"""A package that is not vllm-hpc, installed for one test: a launcher, and the entry point by which it is found."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# Its launcher is srun under another name, and its wrapper notes on each node what it starts.
_MODULE = """
from msgspec.structs import replace
from vllm_hpc.schedulers.launchers import Launcher

LAUNCHER = Launcher(
    name="siterun",
    schedulers=("slurm",),
    program="siterun",
    words=lambda job: ({program!r}, f"--nodes={{job.nodes}}", f"--ntasks={{job.nodes}}"),
    node="$SLURM_NODEID",
    wrapper=({wrapper!r},),
)
"""


def install_launcher(work: Path, monkeypatch: pytest.MonkeyPatch, **fields: object) -> None:
    """Install it below ``work``, with more or other ``fields``; ``wrapped`` there gets a line from each node."""
    site = work / "site"
    metadata = site / "siterun-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.4\nName: siterun\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[vllm_hpc.launchers]\nsiterun = siterun_launcher:LAUNCHER\n")
    program, wrapper = work / "siterun", work / "wrapper"
    module = _MODULE.format(program=str(program), wrapper=str(wrapper))
    (site / "siterun_launcher.py").write_text(f"{module}\nLAUNCHER = replace(LAUNCHER, **{fields!r})\n")
    _write(program, 'exec srun "$@"')
    _write(wrapper, f'echo "$SLURM_NODEID $(basename "$1")" >> {work}/wrapped\nexec "$@"')
    monkeypatch.delitem(sys.modules, "siterun_launcher", raising=False)  # another test's
    monkeypatch.syspath_prepend(str(site))


def _write(path: Path, code: str) -> None:
    path.write_text(f"#!/bin/bash\n{code}\n")
    path.chmod(0o755)
