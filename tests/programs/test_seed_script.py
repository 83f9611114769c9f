"""The seed's own code, byte for byte, through ``submit --script``: TP=2 and PP=2, on four ranks of this machine."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.marks import needs_vllm
from tests.programs.hub_cache import make_hub_cache
from tests.programs.script_jobs import submit_script
from tests.programs.seed_script import SCRIPT, check_seed_script

# Of the block "Basic Tensor Parallel Inference" in the seed.
SHA256 = "c8604b645030f4ebc9d22e22b1e0744cbadb9a770fbc61ef003a7f5186be4612"
pytestmark = pytest.mark.programs


def test_the_code_is_the_seeds() -> None:
    assert hashlib.sha256(SCRIPT.read_bytes()).hexdigest() == SHA256


@pytest.mark.vllm
@pytest.mark.full
@needs_vllm
def test_it_runs_unchanged_with_tp_2_and_pp_2(tmp_path: Path) -> None:
    variables = make_hub_cache(tmp_path / "hub")
    check_seed_script(submit_script(SCRIPT, tmp_path, tp=2, pp=2, env=variables))
