"""A real Slurm of two virtual nodes for each worker of pytest, up from its first test that needs one to its end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real_jobs import require, wait_for

CLUSTER = Path(__file__).parent / "cluster.sh"
# Of a cluster that no worker has; the others lie beside it, ten ports apart.
_FOLDER, _PORT = "/tmp/vllm-hpc-slurm", "26817"


def cluster(*arguments: str) -> str:
    """Call cluster.sh. Raises AssertionError with what it said."""
    done = subprocess.run([str(CLUSTER), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def kill_controller(job_id: str) -> None:
    """Kill slurmctld, once it has saved that the job runs.

    It does so some seconds after a change. Without that it starts the job a second time when it is back, and takes the
    node out of service ("Duplicate jobid"), for all tests that follow.
    """
    changed = time.time()
    subprocess.run(["scontrol", "update", f"jobid={job_id}", "comment=saved"], check=True)
    saved = Path(os.environ["SLURM_CONF"]).with_name("state") / "job_state"
    wait_for(lambda: saved.stat().st_mtime > changed, "slurmctld saves its jobs")
    os.kill(int(Path(os.environ["SLURM_CONF"]).with_name("slurmctld.pid").read_text()), signal.SIGKILL)


def _place(has_accounting: bool) -> dict[str, str]:
    """Where this worker's cluster lies, as cluster.sh reads it: none of them shares a folder or a port with another."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "")
    number = 2 * (int(worker.removeprefix("gw")) + 1 if worker else 0) + has_accounting
    folder, port = os.environ.get("VLLM_HPC_SLURM_DIR", _FOLDER), int(os.environ.get("VLLM_HPC_SLURM_PORT", _PORT))
    name = "".join(f"-{part}" for part in (worker, "accounting" if has_accounting else "") if part)
    return {"VLLM_HPC_SLURM_DIR": folder + name, "VLLM_HPC_SLURM_PORT": str(port + 10 * number)}


def _running(arguments: list[str]) -> Iterator[dict[str, str]]:
    """A cluster, and the variables that its clients and cluster.sh need."""
    needed = ["slurmctld", "slurmd", "munged", *(["slurmdbd", "mariadbd"] if arguments else [])]
    missing = [name for name in needed if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")]
    require(os.geteuid() == 0, "a Slurm can only be started by root")
    require(not missing, f"not installed: {', '.join(missing)}")
    with pytest.MonkeyPatch.context() as patch:
        place = _place(bool(arguments))
        _set(place, patch)
        name, value = cluster("env").strip().split("=")
        patch.setenv(name, value)
        try:
            cluster("up", *arguments)
            patch.undo()  # each test sets them for itself: a worker may have both clusters
            yield {**place, name: value}
        finally:
            _set(place, patch)
            cluster("down")


def _set(variables: dict[str, str], patch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        patch.setenv(name, value)


@pytest.fixture(scope="session")
def _slurm() -> Iterator[dict[str, str]]:
    yield from _running([])


@pytest.fixture(scope="session")
def _slurm_with_accounting() -> Iterator[dict[str, str]]:
    yield from _running(["--accounting"])


@pytest.fixture
def slurm(_slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without accounting."""
    _set(_slurm, monkeypatch)


@pytest.fixture
def slurm_with_accounting(_slurm_with_accounting: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """With slurmdbd and MariaDB."""
    _set(_slurm_with_accounting, monkeypatch)
