"""How the ranks of a world meet: in the job's store, at the address that is used, and no other."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.marks import needs_torch
from vllm_hpc.schedulers.in_script.master_port import choose_port

pytestmark = needs_torch

RANK = """
import json, os, sys
from datetime import timedelta
import psutil
from vllm_hpc.engine.startup import meeting, replicas, torchs_store
rank, size, seconds = map(int, sys.argv[1:])
meeting.JOIN_TIMEOUT = timedelta(seconds=seconds)
world = replicas.meet(b"secret", rank, size)
store = torchs_store.open_store(world) if "TORCHS" in os.environ else world.torch_store
listening = [one.laddr.ip for one in psutil.Process().net_connections("tcp") if one.status == "LISTEN"]
numbers = [world.store.add("counter", 1) for _ in range(100)]
store.set(f"of-torch/{rank}", "here")
store.wait([f"of-torch/{other}" for other in range(size)])
world.leave()
print(json.dumps([sorted(listening), numbers]))
"""


def start(rank: int, address: str, port: int, size: int = 2, seconds: int = 120, **more: str) -> subprocess.Popen[str]:
    point = {"MASTER_ADDR": address, "MASTER_PORT": str(port), "PYTHONPATH": str(Path(__file__).parents[2]), **more}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")} | point
    words = [sys.executable, "-c", RANK, str(rank), str(size), str(seconds)]
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def address_of_host() -> str:
    """An address of this machine that is not the loopback device's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


def numbers_of(ranks: list[subprocess.Popen[str]]) -> tuple[list[list[str]], list[int]]:
    """The addresses at which each rank listened, and the numbers that all of them counted."""
    said = [rank.communicate(timeout=300) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), said
    listening, numbers = zip(*(json.loads(out.splitlines()[-1]) for out, _ in said), strict=True)
    return list(listening), sorted(number for part in numbers for number in part)


@pytest.mark.parametrize("is_one_node", [True, False])
def test_ranks_meet_count_and_leave(is_one_node: bool) -> None:
    """Without torchrun: rank 0 has the store."""
    address = "127.0.0.1" if is_one_node else address_of_host()
    port = choose_port(f"meeting-{is_one_node}")
    listening, numbers = numbers_of([start(rank, address, port, VLLM_HOST_IP=address) for rank in range(2)])
    assert numbers == list(range(1, 201))
    assert listening == [[address], []]


def test_a_store_of_torchs_listens_at_the_address_that_is_used() -> None:
    """Which AITER needs (AMD's GPUs); not torch's own choice, all addresses."""
    port = choose_port("torchs")
    listening, numbers = numbers_of([start(rank, "127.0.0.1", port, TORCHS="1") for rank in range(2)])
    assert numbers == list(range(1, 201))
    assert listening == [["127.0.0.1", "127.0.0.1"], []]


def test_ranks_meet_where_torchrun_has_a_store_of_torchs() -> None:
    """As with 0.1's scripts: it only says where rank 0 has the job's store."""
    from torch._C._distributed_c10d import TCPStore

    torchs = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks = [start(rank, "127.0.0.1", torchs.port, TORCHELASTIC_USE_AGENT_STORE="True") for rank in range(2)]
    listening, numbers = numbers_of(ranks)
    assert numbers == list(range(1, 201))
    assert listening == [["127.0.0.1"], []]
    assert torchs.num_keys() == 1


def test_a_rank_that_does_not_come_is_named() -> None:
    rank = start(0, "127.0.0.1", choose_port("alone"), size=3, seconds=1)
    _, error = rank.communicate(timeout=300)
    assert "RuntimeError: ranks [1, 2] did not connect to rank 0 within 0:00:01" in error


@pytest.mark.parametrize("said", ["", "here", "127.0.0.1 x", "127.0.0.1 1 2", "\udcff 1"], ids=range(5))
def test_what_another_process_wrote_in_torchs_store_is_told(said: str) -> None:
    from vllm_hpc.engine.startup import meeting
    from vllm_hpc.engine.store.client import ForeignStoreError

    assert meeting._read_address(b"10.0.0.1 4711") == ("10.0.0.1", 4711)
    with pytest.raises(ForeignStoreError, match="another process wrote 'vllm-hpc/store' in torch's store"):
        meeting._read_address(said.encode(errors="surrogateescape"))
