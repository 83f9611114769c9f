"""Every rank sees just the GPUs of its replica on its node."""

from __future__ import annotations

import os

import pytest

from vllm_hpc.engine.devices import own_slots, show_only_own
from vllm_hpc.layout import Layout


def layout(nodes: int, procs: int, tp: int, dp: int) -> Layout:
    return Layout(nodes=nodes, gpus_per_node=procs, procs_per_node=procs, tp=tp, pp=1, dp=dp)


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
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    show_only_own(layout(1, 4, tp=2, dp=2), rank, rank)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]) == (seen, local)


def test_one_replica_keeps_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    show_only_own(layout(1, 2, tp=2, dp=1), 1, 1)
    assert (os.environ["CUDA_VISIBLE_DEVICES"], os.environ["LOCAL_RANK"]) == ("0,1", "1")
