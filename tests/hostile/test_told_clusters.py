"""profiles init, of what a cluster tells with odd values in it: the profile that it writes is one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from random import Random

import pytest

from tests.conftest import Cli
from tests.hostile.cases import CANARY
from tests.hostile.generate_admin import clients_of
from vllm_hpc.spec.write_file import open_new

pytestmark = pytest.mark.admins
_QUICK, _MORE = 8, 150


@pytest.mark.parametrize("scheduler", ["slurm", "pbs"])
@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=[pytest.mark.full] if n >= _QUICK else []) for n in range(_QUICK + _MORE)]
)
def test_what_it_writes_is_read(seed: int, scheduler: str, desk: Path, run_cli: Cli) -> None:
    for name, lines in clients_of(scheduler, Random(f"{scheduler} {seed}")).items():
        with open_new(desk / "bin" / f"new-{name}", 0o755) as file:
            file.write(f"#!/bin/sh\n{lines}\n".encode(errors="replace"))
        (desk / "bin" / f"new-{name}").rename(desk / "bin" / name)
    made = run_cli("profiles", "init", "new", "--scheduler", scheduler, "--project")
    assert not list(desk.rglob(CANARY))
    if made.code:
        assert len(made.err.splitlines()) == 1
        return
    (name,) = tomllib.loads((desk / "vllm-hpc.toml").read_text())["profiles"]
    shown = run_cli("profiles", "show", "new")
    assert (name, shown.code) == ("new", 0), shown.err
