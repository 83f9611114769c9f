"""Who has connected in a rank's place is found out before anything of theirs is unpickled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import needs_torch

pytestmark = needs_torch

# Rank 0 has the job's store, and rank 1 connects to it, or is a stranger, who knows nothing but where gloo listens.
RANK = """
import os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from vllm_hpc.engine.startup import gloo_peers
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.messages import Address
from vllm_hpc.engine.store.server import StoreServer
from vllm_hpc.spec.layout import Place
rank, who, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])

class Code:
    def __reduce__(self):
        return os.system, (f"touch {folder}/ran",)

class Stranger:
    def set(self, *_):
        pass
    def get(self, _):
        return "00" * 32

def lies_from_now_on():
    if who == "late" and rank == 1:
        gloo_peers._proof = lambda *_: torch.zeros(32, dtype=torch.uint8)

def job_store():
    if rank == 0:
        address = StoreServer(b"secret", "127.0.0.1").address
        (folder / "draft").write_text(f"{address.host} {address.port}")
        (folder / "draft").rename(folder / "address")
    elif who == "stranger":
        return Stranger()
    while not (folder / "address").exists():
        pass
    host, port = (folder / "address").read_text().split()
    return JobStore(Address(host, int(port)), b"secret", 60)

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
dist.init_process_group("gloo", store=dist.FileStore(str(folder / "gloo"), 2), rank=rank, world_size=2)
made = dist.group.WORLD
try:
    if who != "unchecked":
        gloo_peers.check_all(job_store(), Place(0, rank, 0, rank, 0, rank))
    lies_from_now_on()
    made = dist.new_group([0, 1])
except gloo_peers.ForeignRankError as error:
    if rank == 0:
        print(error, flush=True)
        os._exit(1)
said = [Code() if rank == 1 else None]
dist.broadcast_object_list(said, 1, group=made)
print("it has run", flush=True)
os._exit(0)
"""


def rank_0(who: str, folder: Path) -> tuple[int, str]:
    """How rank 0 ends and what it says, with that rank 1."""
    words = [who, str(folder)]
    ranks = [
        subprocess.Popen([sys.executable, "-c", RANK, str(rank), *words], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said, _ = ranks[0].communicate(timeout=120)
    ranks[1].kill()
    ranks[1].communicate()
    return ranks[0].returncode, said


def test_ranks_of_one_world_pass(tmp_path: Path) -> None:
    assert rank_0("rank", tmp_path) == (0, "it has run\n")


@pytest.mark.trust
def test_code_of_a_stranger_runs_unless_ranks_are_checked(tmp_path: Path) -> None:
    (tmp_path / "unchecked").mkdir()
    assert rank_0("unchecked", tmp_path / "unchecked") == (0, "it has run\n")
    assert (tmp_path / "unchecked" / "ran").exists(), "a pickle over gloo is code"
    for who, group in (("stranger", 0), ("late", 1)):
        (tmp_path / who).mkdir()
        code, said = rank_0(who, tmp_path / who)
        assert (code, (tmp_path / who / "ran").exists()) == (1, False)
        assert f"rank 1 of process group {group} is not of this job: another process" in said
