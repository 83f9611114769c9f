"""Jobs of PBS whose ranks run in an image, over two hosts, by each way to start tasks."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.containers import conftest as of_containers
from tests.containers.conftest import MINOR
from tests.containers.secret_ranks import run_with_secrets
from tests.containers.test_jobs import ANSWERS, charliecloud, in_image, pythons
from tests.containers.test_secrets import stand_in
from tests.pbs.test_layouts import MPIEXEC
from tests.real_jobs import ONE_CORE, check_complete, submit_tiny

pytestmark = [
    pytest.mark.pbs, pytest.mark.admins, pytest.mark.ranks, pytest.mark.full, pytest.mark.usefixtures("pbs"),
]  # fmt: skip
image, bundle = of_containers.image, of_containers.bundle


def put_mpiexec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    client = tmp_path / "bin" / "mpiexec"
    client.parent.mkdir(exist_ok=True)
    client.write_text(MPIEXEC)
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    return client


@pytest.mark.parametrize("launcher", ["pbsdsh", "mpiexec"])
def test_secrets_in_charliecloud(
    image: Path, bundle: Path, tmp_path: Path, pbs: list[str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_mpiexec(tmp_path, monkeypatch)
    job = run_with_secrets(
        tmp_path, monkeypatch, charliecloud(image, bundle), scheduler="pbs", nodes=2, launcher=launcher
    )
    assert pythons(job) == {MINOR}
    assert len({rank.host for rank in job.ranks()}) == 2


def test_secrets_in_podman(tmp_path: Path, pbs: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The image has a value of its own for one of them."""
    run_with_secrets(tmp_path, monkeypatch, stand_in("podman", tmp_path, monkeypatch), scheduler="pbs", nodes=2)


@pytest.mark.parametrize("launcher", ["pbsdsh", "pbs_tmrsh", "mpiexec"])
def test_charliecloud(
    image: Path, bundle: Path, tmp_path: Path, pbs: list[str], launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = put_mpiexec(tmp_path, monkeypatch)
    in_image(tmp_path, monkeypatch, **charliecloud(image, bundle))
    with (tmp_path / "vllm-hpc.toml").open("a") as file:
        file.write(f"setup = ['export PATH={client.parent}:$PATH']\n")
    options: dict[str, Any] = {"nodes": 2, "tp": 2, "launcher": launcher, "env": {**ONE_CORE, "A": "b c"}}
    job = submit_tiny(None, tmp_path, profile="p", scheduler="pbs", **options)
    check_complete(job, ANSWERS)
    assert pythons(job) == {MINOR}
    assert len({rank.host for rank in job.ranks()}) == 2
    assert "cannot submit the next attempt" not in job.logs()
