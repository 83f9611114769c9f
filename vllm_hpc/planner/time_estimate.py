"""Estimates how long a layout takes for an input: its decode steps and its prefill.

Large batches run fastest on replicas, which do not communicate. A few rows run fastest on a TP group: each replica
reads all weights in every step, however few rows it has, while the ranks of a TP group read them once, a part each.
"""

from __future__ import annotations

from typing import NamedTuple

from vllm_hpc.planner.batch_gain import speed_up
from vllm_hpc.planner.kv_cache import kv_bytes_per_token
from vllm_hpc.planner.load import Load
from vllm_hpc.planner.memory import Fit
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.count import active_parameters, count_parameters
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.gpus import Gpu
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.vllm_defaults import LARGEST_GRAPH

# Shares of the data sheet's peaks, measured with the 8B shape on H100 (docs/performance.md, "Layer by layer"):
# prefill matmuls at 698 of 989 TFLOP/s, KV cache reads at 2.2 of 3.35 TB/s; all-reduces of 1 GiB by NCCL, without
# NVLink multicast, at 355 of 900 GB/s (bus bandwidth, 4 GPUs).
FLOPS_SHARE, CACHE_SHARE, LINK_SHARE = 0.7, 0.65, 0.39
# Of the fp8 peak, which is twice the bf16 one: fitted to two runs of the 8B shape on an H200 with quantization=fp8 (256
# tokens in, 128 out: 14,587 tokens/s; 779 in: 6,922), whose inputs are quantised in each step, too (docs/planner.md).
FP8_SHARE = 0.56
# Fitted, as round numbers, to runs of six shapes on one to four H100 or H200 (docs/planner.md): the share of peak
# bandwidth when reading weights; the overhead of a step and of each sequence in it, besides what GPUs read and
# multiply; the latency of an all-reduce, two per layer; and Python's time per sequence and step, which dominates when
# the GPUs finish first (a 1B model).
WEIGHTS_SHARE, STEP_S, SEQUENCE_S = 0.8, 1.4e-3, 8e-6
ALL_REDUCE_S, ALL_REDUCES = 5e-6, 2
HOST_SEQUENCE_S = 19e-6
# Extra time of a layer of experts per sequence and step, the same in every layout. From one model, 128 to 512 at once.
EXPERTS_S = 5.3e-7
# Bidirectional GB/s between nodes whose network is unknown and between GPUs without a known NVLink: PCIe 4.0 x16, with
# the same LINK_SHARE. Not measured.
PCIE = 64.0
TP_OVERHEAD = 1.05  # also fitted: overhead of TP that is not counted above


class Generation(NamedTuple):
    """What to generate on which GPU. ``overlaps``: PP stages run at the same time, each on its part of the rows.

    ``cached``: the share of the prompt tokens that need not be computed, for the KV cache has them.
    With speculation, each step checks ``drafts`` tokens of a sequence, and gives it ``tokens_a_step``.
    ``network_gbps``: Gbit/s of a node's network, None if unknown.
    """

    shape: Shape
    load: Load
    workload: Workload
    gpu: Gpu
    overlaps: bool = False
    cached: float = 0.0
    drafts: float = 0.0
    tokens_a_step: float = 1.0
    network_gbps: int | None = None

    @property
    def prompt(self) -> float:
        """Average tokens of a prompt."""
        return min(self.workload.prompt_tokens / max(1, self.workload.rows), self.load.max_model_len)

    @property
    def outputs(self) -> tuple[float, float]:
        """Average tokens of an output, and those of the longest; outputs end with the context."""
        left = self.load.max_model_len - self.prompt
        average = self.workload.output_tokens / max(1, self.workload.sequences)
        return min(average, left), min(self.workload.most_output, left)


def estimate_seconds(work: Generation, layout: Layout, fit: Fit, at_once: float) -> float:
    """Seconds from the first step to the last on GPUs of known speed.

    ``at_once``: the most sequences that a replica runs at once. All count as equally long, except the longest one,
    which needs at least its own steps. PP stages take turns, as under external_launcher; if the work ``overlaps``,
    they run at the same time, each on its part of the sequences, and read their weights for every part.
    """
    workload = work.workload
    rows = max(1, workload.rows)
    part_of_rows = -(-rows // layout.lanes) / rows  # for the fullest lane; a row's outputs stay together
    sequences = max(1, round(workload.sequences * part_of_rows))
    running = min(sequences, max(1, int(at_once)))
    output, longest = work.outputs
    waves, rest = divmod(sequences, running)
    steps = output / work.tokens_a_step
    decode = steps * (
        waves * _step(work, layout, fit, running, output) + (_step(work, layout, fit, rest, output) if rest else 0.0)
    )
    prefill = _prefill(work, layout, (1 - work.cached) * work.prompt * rows * part_of_rows)
    alone = longest / work.tokens_a_step * _step(work, layout, fit, 1, longest)
    return _tp_overhead(layout) * prefill + max(decode, alone)


def _step(work: Generation, layout: Layout, fit: Fit, running: int, output: float) -> float:
    """Seconds of a decode step of ``running`` sequences, each half way through an output of that length."""
    shape, gpu = work.shape, work.gpu
    if running > LARGEST_GRAPH:  # the terms below are fitted to as many at most
        scale = running / LARGEST_GRAPH / speed_up(shape, running)
        return max(scale * _step(work, layout, fit, LARGEST_GRAPH, output), running * HOST_SEQUENCE_S)
    context = work.prompt + output / 2
    parts = min(layout.pp if work.overlaps else 1, running)
    part = running / parts
    bandwidth = gpu.bandwidth * 1e12
    # A step reads only the experts that its rows are routed to.
    every = max(active_parameters(shape), count_parameters(shape) or 0)
    touched = min(1.0, part * layout.attention_dp * active_parameters(shape) / every)
    weights = touched * fit.rank_weights * layout.pp / (bandwidth * WEIGHTS_SHARE)
    cache = part * context * kv_bytes_per_token(shape, layout.tp, work.load.kv_bytes) / (bandwidth * CACHE_SHARE)
    checked = part * (1 + work.drafts)
    # The time of one part through all stages; the other parts follow right behind it.
    on_gpu = (
        max(weights, checked * _flops_s(work, layout)) + cache + _all_reduces_s(work, layout, checked)
        + _exchange_s(work, layout, checked) + parts * STEP_S
    )  # fmt: skip
    sequence = SEQUENCE_S + (shape.experts.layers * EXPERTS_S if shape.experts else 0.0)
    device = _tp_overhead(layout) * (on_gpu + running * (1 + work.drafts) * sequence)
    host = running * HOST_SEQUENCE_S
    # Drafts are made of the tokens that a step has given: nothing of the next one can begin before.
    return device + host if work.drafts else max(device, host)


def _prefill(work: Generation, layout: Layout, tokens: float) -> float:
    """Seconds of prefill for a replica's prompts, ``tokens`` in total."""
    tokens /= layout.pp if work.overlaps else 1
    batch = work.load.max_num_batched_tokens
    seconds = tokens * _flops_s(work, layout) * (1 + _attention_share(work.shape, work.prompt))
    told = _all_reduces_s(work, layout, batch) + _exchange_s(work, layout, batch)
    return seconds + tokens / batch * told


def _flops_s(work: Generation, layout: Layout) -> float:
    """Seconds of matmuls on a rank per token. The output projection stays in 16 bits."""
    active = active_parameters(work.shape)
    in_fp8 = active - work.shape.vocabulary * work.shape.hidden if _is_fp8(work) else 0
    done = (active - in_fp8) / FLOPS_SHARE + in_fp8 / (2 * FP8_SHARE)
    return 2 * done / (work.gpu.tflops * 1e12) / layout.tp


def _is_fp8(work: Generation) -> bool:
    quantization = work.load.quantization or work.shape.quantization
    return quantization is not None and quantization.method == "fp8" and work.gpu.has_fp8


def _tp_overhead(layout: Layout) -> float:
    return 1.0 if layout.tp == 1 else TP_OVERHEAD


def _attention_share(shape: Shape, prompt: float) -> float:
    """Ratio of a prompt's attention FLOPs to those with weights: on average a token attends to half the prompt."""
    seen = shape.full_layers * prompt / 2 + shape.window_layers * min(prompt / 2, shape.window or prompt)
    head = shape.mla.nope_dim + shape.mla.rope_dim if shape.mla else shape.head_dim
    return 2 * seen * shape.heads * head / active_parameters(shape)


def _all_reduces_s(work: Generation, layout: Layout, tokens: float) -> float:
    """Seconds of a step's all-reduces in a TP group, each over 16-bit activations of ``tokens`` tokens."""
    if layout.tp == 1:
        return 0.0
    moved = 2 * (layout.tp - 1) / layout.tp * tokens * work.shape.hidden * 2
    seconds = ALL_REDUCE_S + moved / _bytes_per_s(work, layout, layout.has_tp_inside_nodes)
    return work.shape.layers * ALL_REDUCES * seconds


def _exchange_s(work: Generation, layout: Layout, tokens: float) -> float:
    """Seconds in which the lanes of a replica exchange the tokens of a step before and after each layer's experts.

    Each rank gets the 16-bit hidden states of all lanes' ``tokens``, and sends their sums back (vLLM's
    AgRsAll2AllManager, the default). Between nodes not measured.
    """
    shape = work.shape
    if layout.attention_dp == 1 or shape.experts is None:
        return 0.0
    moved = (layout.attention_dp - 1) * tokens * shape.hidden * 2
    is_inside = layout.replica_size <= layout.procs_per_node
    return 2 * shape.experts.layers * (ALL_REDUCE_S + moved / _bytes_per_s(work, layout, is_inside))


def _bytes_per_s(work: Generation, layout: Layout, is_inside: bool) -> float:
    """What a collective moves a second on each GPU: over NVLink inside a node, else over its share of the network.

    A ring of ranks is as slow as its slowest link.
    """
    own = work.gpu.link if is_inside else None
    if not is_inside and work.network_gbps:
        own = 2 * work.network_gbps / 8 / layout.procs_per_node
    return (own or PCIE) * 1e9 * LINK_SHARE
