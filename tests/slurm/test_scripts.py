"""Scripts over two nodes of a real Slurm, started by torchrun and by srun itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.marks import needs_torch, needs_vllm
from tests.programs.hub_cache import make_hub_cache
from tests.programs.script_jobs import completed, log_of, submit_code, submit_script
from tests.programs.seed_script import SCRIPT, check_seed_script
from tests.real_jobs import ONE_CORE, ends_as

LIMIT_S = 90
LAUNCHERS = [pytest.param({}, id="torchrun"), pytest.param({"launcher": "srun"}, id="srun")]
# Rank 0, whose node has the job's store, ends first; the others make a process group after that.
FIRST_IS_GONE = """
import os, time
from pathlib import Path
import torch, torch.distributed as dist
if os.environ["RANK"] == "0":
    raise SystemExit
record = Path(os.environ["VLLM_HPC_FOLDER"], "ranks", "rank-0.json")
{wait}
os.environ["RANK"], os.environ["WORLD_SIZE"] = str(int(os.environ["RANK"]) - 1), "1"
dist.init_process_group("gloo")
print("made without it")
"""
FAILS = """
import os, time, torch, torch.distributed as dist
dist.init_process_group("gloo")
if dist.get_rank() == 1:
    raise ValueError("of rank 1")
dist.all_reduce(torch.ones(1))
"""
pytestmark = [pytest.mark.programs, pytest.mark.slurm, pytest.mark.full, pytest.mark.usefixtures("slurm")]


def over_two_nodes(code: str, work: Path, **options: Any) -> Any:
    return submit_code(code, work, scheduler="slurm", nodes=2, tp=2, env=ONE_CORE, **options)


@pytest.mark.vllm
@needs_vllm
def test_the_seeds_own_code(tmp_path: Path) -> None:
    variables = make_hub_cache(tmp_path / "hub")
    job = submit_script(SCRIPT, tmp_path, scheduler="slurm", nodes=2, tp=2, pp=2, env=variables)
    check_seed_script(job)
    assert [rank.host for rank in job.ranks()] == ["node1", "node1", "node2", "node2"]


@pytest.mark.ranks
@needs_torch
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_first_rank_may_end_first(tmp_path: Path, launcher: dict[str, Any]) -> None:
    """The others still find the job's store, which is in rank 0 where no torchrun has it: that rank then stays."""
    wait = "time.sleep(5)" if launcher else "while '\"ok\"' not in record.read_text(): time.sleep(0.1)"
    job = over_two_nodes(FIRST_IS_GONE.format(wait=wait), tmp_path, **launcher)
    completed(job)
    assert "made without it" in log_of(job, 1)


@pytest.mark.ranks
@needs_torch
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_rank_of_another_node_fails(tmp_path: Path, launcher: dict[str, Any]) -> None:
    status = ends_as(over_two_nodes(FAILS, tmp_path, **launcher), "FAILED", LIMIT_S)
    assert "rank 1 on node2: ValueError: of rank 1 (script.py:5)" in str(status.reason)
