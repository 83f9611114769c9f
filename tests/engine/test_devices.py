"""Every rank sees just the GPUs of its replica on its node."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vllm_hpc.engine.startup import devices
from vllm_hpc.engine.startup.devices import own_slots, show_only_own
from vllm_hpc.spec.layout import Layout


def layout(nodes: int, procs: int, tp: int, dp: int) -> Layout:
    return Layout(nodes=nodes, gpus_per_node=procs, procs_per_node=procs, tp=tp, pp=1, dp=dp)


@pytest.fixture(autouse=True)
def nvidia(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node without AMD's driver, on which nothing is said yet."""
    monkeypatch.setattr(devices, "_AMD_DRIVER", Path("/no-such-device"))
    monkeypatch.setattr(devices, "_NVIDIA_DRIVER", Path("/no-such-device"))
    monkeypatch.setattr(devices, "_INTEL_DRIVERS", ())
    for name in (*(f"{one}_VISIBLE_DEVICES" for one in ("CUDA", "HIP", "ROCR")), "ZE_AFFINITY_MASK"):
        monkeypatch.setenv(name, "set, so that the test's own end takes it back")
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_RANK", "none")


@pytest.fixture
def amd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_AMD_DRIVER", Path("/dev/null"))


def test_replicas_share_out_the_slots_of_a_node() -> None:
    four = layout(1, 4, tp=2, dp=2)
    assert [own_slots(four, rank, rank) for rank in range(4)] == [(0, 2), (0, 2), (2, 2), (2, 2)]


def test_a_replica_that_spans_nodes_has_a_part_of_each() -> None:
    spanning = layout(2, 3, tp=2, dp=3)
    slots = [own_slots(spanning, rank, rank % 3) for rank in range(6)]
    assert slots == [(0, 2), (0, 2), (2, 1), (0, 1), (1, 2), (1, 2)]


@pytest.mark.parametrize(
    ("visible", "rank", "seen", "local"),
    [(None, 3, "2,3", "1"), ("4,5,6,7", 2, "6,7", "0"), ("GPU-a,GPU-b,GPU-c,GPU-d", 0, "GPU-a,GPU-b", "0")],
)
def test_what_is_visible_stays_the_base(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, rank: int, seen: str, local: str
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    show_only_own(layout(1, 4, tp=2, dp=2), rank, rank)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]) == (seen, local)


def test_one_replica_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    show_only_own(layout(1, 2, tp=2, dp=1), 1, 1)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]) == ("0,1", "1")


def run(monkeypatch: pytest.MonkeyPatch, shape: Layout, rank: int, **visible: str) -> dict[str, str | None]:
    """What a rank of one node sees in the end, by the variables' short names."""
    for name, value in visible.items():
        monkeypatch.setenv(f"{name}_VISIBLE_DEVICES", value)
    monkeypatch.setenv("LOCAL_RANK", str(rank))
    show_only_own(shape, rank, rank)
    names = {name: os.environ.get(f"{name}_VISIBLE_DEVICES") for name in ("CUDA", "HIP", "ROCR")}
    return {**names, "LOCAL_RANK": os.environ["LOCAL_RANK"]}


@pytest.mark.parametrize("dp", [1, 2], ids=["one replica", "two replicas"])
def test_the_one_gpu_of_a_task_is_device_0(monkeypatch: pytest.MonkeyPatch, dp: int) -> None:
    """--gpus-per-task=1: each rank sees one GPU, and LOCAL_RANK 3 would be an invalid device."""
    seen = run(monkeypatch, layout(1, 4, tp=4 // dp, dp=dp), 3, CUDA="3", ROCR="3")
    assert seen == {"CUDA": "3", "HIP": None, "ROCR": "3", "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    "given",
    [{"ROCR": "3"}, {"ROCR": "3", "CUDA": "3"}, {"ROCR": "3", "HIP": "0"}, {"ROCR": "3", "HIP": "0,1,2,3"}],
    ids=["as Slurm sets it", "as Slurm without AutoDetect sets it", "within ROCR's", "HIP's for the whole node"],
)
@pytest.mark.usefixtures("amd")
def test_the_one_amd_gpu_of_a_task_is_said_once(monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    """HIP counts what ROCR has left from 0: ROCR=3 with HIP=3 is no GPU at all."""
    seen = run(monkeypatch, layout(1, 4, tp=4, dp=1), 3, **given)
    assert seen == {"CUDA": "3", "HIP": "3", "ROCR": None, "LOCAL_RANK": "0"}


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({"ROCR": "0,1,2,3"}, ("2,3", "2,3", None)),
        ({"HIP": "4,5,6,7"}, ("6,7", "6,7", None)),
        ({"ROCR": "0,1,2,3,4,5,6,7", "HIP": "4,5,6,7"}, ("6,7", "6,7", "0,1,2,3,4,5,6,7")),
    ],
)
@pytest.mark.usefixtures("amd")
def test_amd_gpus_are_shared_out_between_replicas(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], seen: tuple[str, str, str | None]
) -> None:
    cuda, hip, rocr = seen
    end = run(monkeypatch, layout(1, 4, tp=2, dp=2), 2, **given)
    assert end == {"CUDA": cuda, "HIP": hip, "ROCR": rocr, "LOCAL_RANK": "0"}


@pytest.mark.admins
@pytest.mark.usefixtures("amd")
@pytest.mark.parametrize(("procs", "rank", "rocr"), [(1, 0, "3"), (4, 2, "0,1,2,3")])
def test_of_a_single_replica_slurms_list_becomes_hips(
    monkeypatch: pytest.MonkeyPatch, procs: int, rank: int, rocr: str
) -> None:
    """vLLM stops where ROCR_VISIBLE_DEVICES is set, as by LUMI's Slurm, and HIP_VISIBLE_DEVICES is not."""
    seen = run(monkeypatch, layout(1, procs, tp=procs, dp=1), rank, ROCR=rocr)
    assert seen == {"CUDA": rocr, "HIP": rocr, "ROCR": None, "LOCAL_RANK": str(rank)}


@pytest.mark.usefixtures("amd")
def test_a_single_replica_keeps_hips_list(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = run(monkeypatch, layout(1, 2, tp=2, dp=1), 1, HIP="4,5")
    assert seen == {"CUDA": None, "HIP": "4,5", "ROCR": None, "LOCAL_RANK": "1"}


@pytest.mark.admins
@pytest.mark.parametrize(
    ("mask", "rank", "seen", "local"),
    [
        (None, 0, "0,1,2,3", "0"), (None, 7, "4,5,6,7", "3"), (None, 11, "8,9,10,11", "3"),
        ("6,7,8,9,10,11,0,1,2,3,4,5", 4, "10,11,0,1", "0"), ("0.0,0.1,1.0,1.1,2.0,2.1,3.0,3.1,4.0,4.1,5.0,5.1", 4,
        "2.0,2.1,3.0,3.1", "0"),
    ],
)  # fmt: skip
def test_replicas_do_not_share_auroras_tiles(
    monkeypatch: pytest.MonkeyPatch, mask: str | None, rank: int, seen: str, local: str
) -> None:
    monkeypatch.setattr(devices, "_INTEL_DRIVERS", (Path("/no-such-device"), Path("/dev/null")))
    if mask is not None:
        monkeypatch.setenv("ZE_AFFINITY_MASK", mask)
    found = run(monkeypatch, layout(1, 12, tp=4, dp=3), rank)
    assert (os.environ["ZE_AFFINITY_MASK"], found["LOCAL_RANK"], found["CUDA"]) == (seen, local, None)


@pytest.mark.admins
@pytest.mark.parametrize("other", ["_NVIDIA_DRIVER", "_AMD_DRIVER"])
def test_intels_gpu_for_the_screen_is_not_what_ranks_use(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(devices, "_INTEL_DRIVERS", (Path("/dev/null"),))
    monkeypatch.setattr(devices, other, Path("/dev/null"))
    assert run(monkeypatch, layout(1, 4, tp=2, dp=2), 2)["CUDA"] == "2,3"
    assert "ZE_AFFINITY_MASK" not in os.environ
