"""An image of another Debian, with a Python of its own, and a bundle of vllm-hpc for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import shared_folder
from tests.real_jobs import require
from tests.slurm import conftest as of_slurm

# Debian 13's; not that of this environment, or the test would show little.
MINOR = "3.13"
_CACHE = "/var/cache/vllm-hpc-tests/trixie-torch"
_slurm, slurm = of_slurm._slurm, of_slurm.slurm


@pytest.fixture(scope="session")
def image() -> Path:
    """The folder that tests/containers/make-image.sh has made, and Charliecloud to run it."""
    require(shutil.which("ch-run") is not None, "not installed: charliecloud")
    found = next((one for one in (Path(sys.prefix) / "image", Path(_CACHE)) if (one / "ch" / "made").exists()), None)
    require(found is not None, "no image: make .venv/image.done")
    assert found is not None
    os.environ.setdefault("USER", "root")
    return found


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of ``vllm-hpc bundle`` for that Python."""
    with shared_folder(tmp_path_factory, "bundle") as folder:
        made = folder / MINOR
        if not made.exists():
            argv = [sys.executable, "-m", "vllm_hpc", "bundle", "--python", MINOR, str(made)]
            done = subprocess.run(argv, capture_output=True, text=True)
            require(done.returncode == 0, done.stderr)
        return made
