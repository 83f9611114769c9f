"""What more sequences at once than vLLM's largest CUDA graph give, and what they cost: all numbers to fit are here.

Measured with vLLM 0.26 (docs/performance.md, docs/planner.md): one GPU, rows of 256 tokens in and 128 out.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from vllm_hpc.planner.models.config import Shape
from vllm_hpc.spec.vllm_defaults import LARGEST_GRAPH, graph_sizes


class BatchGain(NamedTuple):
    """``doubling``: a decode step's speed per sequence when twice as many run. ``most``: up to how many that was seen.

    ``graph_s``: seconds of the start for each CUDA graph.
    """

    doubling: float
    most: int
    graph_s: float


# 8B on H100, 1024 at once to 512: 11,156 to 10,845 tok/s, prompts included; 32 more graphs took 3 s.
DENSE = BatchGain(doubling=1.06, most=1024, graph_s=0.1)
# 30B-A3B on H200 in one engine, 4096 rows, two rounds: 1024 at once 15,010 tok/s, 512 11,908, prompts included; 2048 at
# once are slower, 13,534. A graph took 0.35 to 0.58 s in three starts with 63 to 147 of them.
EXPERTS = BatchGain(doubling=1.34, most=1024, graph_s=0.45)
# vLLM compiles anew for another max_num_seqs: 20.5 s, 4.3 where the code is there (8B, profile).
RECOMPILE_S = 16.0
# Numbers of sequences to choose among.
STEP = 256


def gain_of(shape: Shape) -> BatchGain:
    """The numbers for a model."""
    return EXPERTS if shape.experts else DENSE


def speed_up(shape: Shape, sequences: int) -> float:
    """A decode step's speed per sequence, to that of LARGEST_GRAPH sequences; 1 for fewer."""
    gain = gain_of(shape)
    doublings = math.log2(max(LARGEST_GRAPH, min(sequences, gain.most)) / LARGEST_GRAPH)
    return float(gain.doubling**doublings)


def start_s(shape: Shape, sequences: int) -> float:
    """Seconds by which a start is longer than one for LARGEST_GRAPH sequences, whose code is compiled already."""
    more = len(graph_sizes(sequences)) - len(graph_sizes(LARGEST_GRAPH))
    return RECOMPILE_S + more * gain_of(shape).graph_s
