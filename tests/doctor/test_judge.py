"""What reports of nodes and ranks mean, fault by fault."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from vllm_hpc.doctor.expected import Expected
from vllm_hpc.doctor.judge_nodes import judge_nodes
from vllm_hpc.doctor.judge_ranks import bus_gb_s, judge_ranks
from vllm_hpc.jobfolder.node_report import Gpus, NodeReport, RankFacts, Sharing, Sum, Writes
from vllm_hpc.spec.finding import Finding
from vllm_hpc.spec.host_path import HostPath

pytestmark = pytest.mark.admins

VERSIONS = {"python": "3.12.3", "vllm-hpc": "1.0", "submitit": "1.5.3"}
EXPECTED = Expected(nodes=2, procs_per_node=4, gpus=4, gpu_gib=79.2, versions=VERSIONS)
H100 = Gpus(tool="nvidia-smi", count=4, name="H100", memory_gib=79.6, driver="570")
HEAD = NodeReport(
    node=0, host="n0", has_met=True, versions={**VERSIONS, "torch": "2.8", "vllm": "0.32"},
    gpus=H100, address="10.0.0.1", interface="ib0 (200 Gb/s)", interfaces=("ib0", "lo"), head="n0", port=20000,
    writes=Writes(0.002, 0.01), free_gib=500.0, memory_gib=400.0,
)  # fmt: skip
OTHER = msgspec.structs.replace(
    HEAD, node=1, host="n1", address="10.0.0.2", round_trip_s=0.0001, skew_s=0.002, sharing=Sharing(0.05, 300, 0)
)


def judged(expected: Expected = EXPECTED, **changes: Any) -> list[Finding]:
    """What is wrong with the second node, changed so."""
    found = judge_nodes([HEAD, msgspec.structs.replace(OTHER, **changes)], expected)
    assert [one for one in found if one.where == "n0" and one.status in ("warn", "fail")] == []
    return [one for one in found if one.status in ("warn", "fail")]


def test_sound_nodes() -> None:
    assert judged() == []


@pytest.mark.parametrize(
    ("changes", "check", "status", "words"),
    [
        ({"versions": {**HEAD.versions, "vllm-hpc": "0.9"}}, "versions", "fail", "vllm-hpc 0.9, not 1.0, as here"),
        ({"versions": {**HEAD.versions, "python": "3.11.2"}}, "versions", "fail", "Python 3.11.2, not 3.12.3"),
        ({"versions": {**HEAD.versions, "torch": "2.9"}}, "versions", "fail", "torch 2.9, and 2.8 on the other nodes"),
        ({"gpus": msgspec.structs.replace(H100, driver="560")}, "driver", "warn", "560, and 570 on the other nodes"),
        ({"gpus": msgspec.structs.replace(H100, count=3)}, "gpus", "fail", "3 of 4: 3 x H100"),
        ({"gpus": msgspec.structs.replace(H100, memory_gib=39.5)}, "gpus", "fail", "39.5 GiB, not 79.2"),
        ({"gpus": None, "gpus_error": "no nvidia-smi"}, "gpus", "fail", "none of 4: no nvidia-smi"),
        ({"network_error": "cannot resolve node 'n0'"}, "network", "fail", "cannot resolve"),
        ({"wrong_interfaces": {"GLOO_SOCKET_IFNAME": "eth9"}}, "gloo", "fail", "this node, which has ib0, lo"),
        ({"head_error": "timed out", "round_trip_s": None}, "port", "fail", "of n0 is not reached: timed out"),
        ({"skew_s": -7.5}, "clock", "warn", "7.500 s ahead of the head's"),
        ({"writes": Writes(0.5, 3.0)}, "job-dir", "warn", "500 ms, at most 3.0 s"),
        ({"free_gib": 0.2}, "job-dir", "warn", "0.2 GiB free"),
        ({"writes": None, "folder_error": "No such file or directory"}, "job-dir", "fail", "No such file"),
        ({"sharing": Sharing(None)}, "rename", "fail", "never came"),
        ({"sharing": Sharing(30.0, 100, 0)}, "rename", "warn", "after 30 s"),
        ({"sharing": Sharing(0.1, 100, 3)}, "rename", "fail", "3 of 100 reads found no file, or part of one"),
    ],
)  # fmt: skip
def test_a_fault_of_one_node(changes: dict[str, Any], check: str, status: str, words: str) -> None:
    (found,) = judged(**changes)
    assert (found.check, found.status, found.where) == (check, status, "n1")
    assert words in found.found
    assert found.advice


def test_a_taken_port_is_the_heads_fault_alone() -> None:
    head = msgspec.structs.replace(HEAD, port_error="address already in use")
    found = judge_nodes([head, msgspec.structs.replace(OTHER, head_error="x", round_trip_s=None)], EXPECTED)
    assert [(one.status, one.where) for one in found if one.check == "port"] == [("fail", "n0"), ("skip", "n1")]


@pytest.mark.parametrize(
    ("seen", "changes", "status", "words"),
    [
        (HostPath("/m", error="No such file or directory"), {}, "fail", "/m: No such file"),
        (HostPath("/m", 70), {}, "fail", "70 bytes, not 100 as here"),
        (HostPath("o/m", error="not in the cache"), {"is_on_hub": True}, "warn", "not in the cache"),
        (HostPath("o/m", error="not in the cache"), {"is_on_hub": True, "offline": True}, "fail", "not in the cache"),
    ],
)
def test_a_model_that_a_node_does_not_have(seen: HostPath, changes: dict[str, Any], status: str, words: str) -> None:
    expected = msgspec.structs.replace(EXPECTED, model=HostPath("/m", 100), **changes)
    (found,) = judged(expected, model=seen)
    assert (found.check, found.status) == ("model", status)
    assert words in found.found


def test_a_checkpoint_that_is_larger_than_the_memory() -> None:
    expected = msgspec.structs.replace(EXPECTED, model=HostPath("/m", 500 << 30))
    assert [one.check for one in judge_nodes([HEAD, OTHER], expected) if one.status == "warn"] == ["memory"] * 2


def test_a_container_that_is_not_there() -> None:
    expected = msgspec.structs.replace(EXPECTED, has_image=True, has_program=True)
    sound = {"runtime": "/usr/bin/apptainer", "image": HostPath("/i.sif", 5)}
    head = msgspec.structs.replace(HEAD, **sound)
    for changes, words in (
        ({**sound, "image": HostPath("/i.sif", error="No such file or directory")}, "/i.sif: No such file"),
        ({**sound, "runtime": ""}, "not in PATH"),
    ):
        found = judge_nodes([head, msgspec.structs.replace(OTHER, **changes)], expected)
        (bad,) = [one for one in found if one.status == "fail"]
        assert (bad.check, bad.where) == ("container", "n1")
        assert words in bad.found


def test_tiles_of_a_gpu_may_have_a_rank_each() -> None:
    aurora = Gpus(tool="xpu-smi", count=6, name="Max 1550")
    expected = msgspec.structs.replace(EXPECTED, gpus=12, gpu_gib=None)
    found = judge_nodes([msgspec.structs.replace(HEAD, gpus=aurora)], expected)
    assert [one.status for one in found if one.check == "gpus"] == ["ok"]


FACTS = RankFacts(
    rank=0, host="n0", ranks=8, versions={**VERSIONS, "torch": "2.8", "cuda": "12.8"}, gpus=4, gpu_name="H100",
    backend="nccl", sums=(Sum(1 << 20, 0.0001), Sum(1 << 28, 0.02)),
)  # fmt: skip


def test_an_all_reduce_with_its_bandwidth() -> None:
    log = "n0:1:1 [0] NCCL INFO Using network IB\n"
    found = judge_ranks([FACTS, msgspec.structs.replace(FACTS, rank=4, host="n1")], EXPECTED, log)
    assert [one.status for one in found] == ["ok"] * 3
    assert found[-1].found == "23.5 GB/s by nccl (IB) over 8 ranks (256 MiB in 20 ms)"


def test_the_bandwidth_is_nccl_tests() -> None:
    assert bus_gb_s(10**9, 1.0, 2) == 1.0
    assert bus_gb_s(10**9, 1.0, 4) == 1.5


@pytest.mark.parametrize(
    ("changes", "check", "status", "words"),
    [
        ({"sums": (Sum(1 << 28, 0.5),)}, "all-reduce", "warn", "0.94 GB/s"),
        ({"error": "RuntimeError: Unable to find interface"}, "all-reduce", "fail", "rank 0: RuntimeError: Unable"),
        ({"gpus": 2}, "torch", "fail", "torch sees 2 of 4 GPUs"),
        ({"versions": {**FACTS.versions, "vllm-hpc": "0.9"}}, "ranks", "fail", "vllm-hpc 0.9, not 1.0 as here"),
        ({"sums": ()}, "all-reduce", "skip", "one rank alone"),
    ],
)
def test_a_fault_of_a_rank(changes: dict[str, Any], check: str, status: str, words: str) -> None:
    found = [one for one in judge_ranks([msgspec.structs.replace(FACTS, **changes)], EXPECTED) if one.status != "ok"]
    assert [(one.check, one.status) for one in found] == [(check, status)]
    assert words in found[0].found


def test_ranks_without_gpus() -> None:
    one = msgspec.structs.replace(FACTS, gpus=0, backend="gloo")
    assert [(f.check, f.status) for f in judge_ranks([one], EXPECTED)] == [("torch", "fail"), ("all-reduce", "fail")]
    on_cpu = msgspec.structs.replace(EXPECTED, gpus=None)
    assert [(f.check, f.status) for f in judge_ranks([one], on_cpu)] == [("all-reduce", "ok")]
