"""The seed's own code, byte for byte, through ``submit --script``: TP=2 and PP=2, on four ranks of this machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import needs_vllm
from tests.programs.hub_cache import make_hub_cache
from tests.programs.script_jobs import submit_script
from tests.programs.seed_script import SCRIPT, answers, check_seed_script

# Of the block "Basic Tensor Parallel Inference" in the seed.
SHA256 = "c8604b645030f4ebc9d22e22b1e0744cbadb9a770fbc61ef003a7f5186be4612"
# What another program must not take for its own job.
FOREIGN = ("TORCHELASTIC", "SLURM", "VLLM_HPC")
pytestmark = pytest.mark.programs


def test_the_code_is_the_seeds() -> None:
    assert hashlib.sha256(SCRIPT.read_bytes()).hexdigest() == SHA256


@pytest.mark.vllm
@pytest.mark.full
@needs_vllm
def test_it_prints_what_it_prints_under_torchrun(tmp_path: Path) -> None:
    variables = make_hub_cache(tmp_path / "hub")
    found = check_seed_script(submit_script(SCRIPT, tmp_path, tp=2, pp=2, env=variables))
    mine = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=4", "--standalone", str(SCRIPT)]
    plain = subprocess.run(words, env={**mine, **variables}, capture_output=True, text=True, check=True, timeout=600)
    assert found == answers(plain.stdout)
