"""For how many sequences CUDA graphs are captured."""

from __future__ import annotations

import itertools

import pytest

from vllm_hpc.spec.vllm_defaults import LARGEST_GRAPH, MOST_CAPTURED, graph_sizes

pytestmark = pytest.mark.throughput


@pytest.mark.parametrize("sequences", [1, 512, 513, 600, 640, 641, 1000, 1024, 1792, 2048, 2049, 10**9])
def test_the_largest_graph_holds_all_sequences_and_the_others_are_in_order(sequences: int) -> None:
    sizes = graph_sizes(sequences)
    assert sizes == sorted(set(sizes))
    assert sizes[:51] == [1, 2, 4, *range(8, 256, 8), *range(256, 513, 16)]  # vLLM's own
    assert sizes[-1] == max(LARGEST_GRAPH, min(-(-sequences // 16) * 16, MOST_CAPTURED))
    assert all(after <= 1.25 * before for before, after in itertools.pairwise(sizes) if before >= 32)
    assert len(sizes) <= 51 + 12
