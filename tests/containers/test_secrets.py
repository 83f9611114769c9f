"""Secrets of jobs whose ranks run in an image: on Slurm and on this machine, in each runtime's words."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.containers.secret_ranks import run_with_secrets
from tests.containers.stand_in import install, told
from tests.containers.test_jobs import charliecloud
from tests.hostile.test_secrets import HF, WORD
from vllm_hpc.schedulers.containers.runtimes import CONTAINER_RUNTIMES

pytestmark = [pytest.mark.admins, pytest.mark.ranks, pytest.mark.full]
STAND_INS = [name for name in CONTAINER_RUNTIMES if name not in ("charliecloud", "pyxis")]


def stand_in(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A container that this runtime's stand-in runs, first in PATH."""
    install(tmp_path / "bin", CONTAINER_RUNTIMES[name].program)
    image = tmp_path / ("vllm.sqsh" if name == "pyxis" else "vllm.tar")
    image.touch()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    return {"runtime": name, "image": str(image), "python": sys.executable}


@pytest.mark.parametrize("name", STAND_INS)
def test_on_this_machine(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    container = stand_in(name, tmp_path, monkeypatch)
    run_with_secrets(tmp_path, monkeypatch, container, scheduler="local")
    argv = " ".join(told(tmp_path / "bin", name)["argv"])  # type: ignore[arg-type]
    assert not [one for one in (HF, WORD, "sesame") if one in argv]


@pytest.mark.slurm
@pytest.mark.usefixtures("slurm")
@pytest.mark.parametrize("exports", [True, False])
@pytest.mark.parametrize("name", ["charliecloud", "podman", "pyxis"])
def test_on_slurm(
    name: str, exports: bool, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "charliecloud":
        container = charliecloud(request.getfixturevalue("image"), request.getfixturevalue("bundle"))
    else:
        container = stand_in(name, tmp_path, monkeypatch)
    run_with_secrets(tmp_path, monkeypatch, container, scheduler="slurm", nodes=2, export_environment=exports)
