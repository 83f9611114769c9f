"""How long a layout needs for an input: an estimate, of steps of decoding and of prompts.

Of large batches replicas make the most, for nothing is talked about between them. Of few rows a TP group does: each
replica reads all weights in every step, however few rows it has, and a TP group reads them once, each rank its part.
"""

from __future__ import annotations

from typing import NamedTuple

from vllm_hpc.planner.memory import Fit, Load, kv_bytes_per_token
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.count import active_parameters, count_parameters
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.gpus import Gpu
from vllm_hpc.spec.layout import Layout

# Of the data sheet's peaks, what was measured with the 8B shape on H100 (docs/performance.md, "Layer by layer"):
# products of prompts at 698 of 989 TFLOP/s, KV cache read at 2.2 of 3.35 TB/s; all-reduces of 1 GiB by NCCL, without
# NVLink multicast, at 355 of 900 GB/s (bus bandwidth, 4 GPUs).
FLOPS_SHARE, CACHE_SHARE, LINK_SHARE = 0.7, 0.65, 0.39
# What follows is fitted, as round numbers, to runs of six shapes on one to four H100 or H200 (docs/planner.md): the
# reading of weights, of the peak; a step, and each of its sequences in it, beside what GPUs read and multiply; an
# all-reduce, beside its size, two a layer; and what Python needs for a sequence in every step, where the GPUs would be
# done before (a 1B model).
WEIGHTS_SHARE, STEP_S, SEQUENCE_S = 0.8, 1.4e-3, 8e-6
ALL_REDUCE_S, ALL_REDUCES = 5e-6, 2
HOST_SEQUENCE_S = 19e-6
# What a layer of experts takes more for a sequence in each step, in every layout alike. Of one model, with 512 at once.
EXPERTS_S = 6e-7
# GB/s both ways where GPUs have no NVLink, or none that is known, and between nodes: PCIe 4.0 x16, of which the same
# share counts. Not measured.
PCIE = 64.0
TP_MORE = 1.05  # fitted as well: what TP takes that is not counted above


class Generation(NamedTuple):
    """What is to be generated, on which GPU. ``overlaps``: stages of PP work at once, each on its part of the rows."""

    shape: Shape
    load: Load
    workload: Workload
    gpu: Gpu
    overlaps: bool = False

    @property
    def prompt(self) -> float:
        """Tokens of a prompt, on average."""
        return min(self.workload.prompt_tokens / max(1, self.workload.rows), self.load.max_model_len)

    @property
    def outputs(self) -> tuple[float, float]:
        """Tokens of an output on average, and of the longest; outputs end with the context."""
        left = self.load.max_model_len - self.prompt
        average = self.workload.output_tokens / max(1, self.workload.sequences)
        return min(average, left), min(self.workload.most_output, left)


def estimate_seconds(work: Generation, layout: Layout, fit: Fit, at_once: float) -> float:
    """Seconds from the first step to the last on GPUs of known speed.

    ``at_once``: sequences that a replica runs at once, at most. All count as of the same length, but for the longest
    one, which takes its own steps at least. Stages of PP work in turns, as under external_launcher; or at once where
    the work ``overlaps``, each on its part of the sequences, so that it reads its weights for every part.
    """
    workload = work.workload
    rows = max(1, workload.rows)
    part_of_rows = -(-rows // layout.dp) / rows  # the fullest replica's; a row's outputs stay together
    sequences = max(1, round(workload.sequences * part_of_rows))
    running = min(sequences, max(1, int(at_once)))
    output, longest = work.outputs
    waves, rest = divmod(sequences, running)
    decode = output * (
        waves * _step(work, layout, fit, running, output) + (_step(work, layout, fit, rest, output) if rest else 0.0)
    )
    prefill = _prefill(work, layout, work.prompt * rows * part_of_rows)
    return _more(layout) * prefill + max(decode, longest * _step(work, layout, fit, 1, longest))


def _step(work: Generation, layout: Layout, fit: Fit, running: int, output: float) -> float:
    """Seconds of a decode step of so many sequences, each half way through an output of that length."""
    shape, gpu = work.shape, work.gpu
    context = work.prompt + output / 2
    parts = min(layout.pp if work.overlaps else 1, running)
    part = running / parts
    bandwidth = gpu.bandwidth * 1e12
    # Of experts, a step reads those that its rows are sent to.
    every = max(active_parameters(shape), count_parameters(shape) or 0)
    touched = min(1.0, part * active_parameters(shape) / every)
    weights = touched * fit.rank_weights * layout.pp / (bandwidth * WEIGHTS_SHARE)
    cache = part * context * kv_bytes_per_token(shape, layout.tp, work.load.kv_bytes) / (bandwidth * CACHE_SHARE)
    # What a part takes through all stages; meanwhile the others do the same behind it.
    on_gpu = max(weights, part * _flops_s(work, layout)) + cache + _talk(shape, layout, part, gpu) + parts * STEP_S
    sequence = SEQUENCE_S + (shape.experts.layers * EXPERTS_S if shape.experts else 0.0)
    return max(_more(layout) * (on_gpu + running * sequence), running * HOST_SEQUENCE_S)


def _prefill(work: Generation, layout: Layout, tokens: float) -> float:
    """Seconds of a replica's prompts, of so many tokens in all."""
    tokens /= layout.pp if work.overlaps else 1
    batch = work.load.max_num_batched_tokens
    seconds = tokens * _flops_s(work, layout) * (1 + _attention_share(work.shape, work.prompt))
    return seconds + tokens / batch * _talk(work.shape, layout, batch, work.gpu)


def _flops_s(work: Generation, layout: Layout) -> float:
    """Seconds that a rank multiplies for one token."""
    return 2 * active_parameters(work.shape) / (work.gpu.tflops * 1e12 * FLOPS_SHARE) / layout.tp


def _more(layout: Layout) -> float:
    return 1.0 if layout.tp == 1 else TP_MORE


def _attention_share(shape: Shape, prompt: float) -> float:
    """Products of a prompt's attention to those with its weights: each token's keys and values are half the prompt."""
    seen = shape.full_layers * prompt / 2 + shape.window_layers * min(prompt / 2, shape.window or prompt)
    head = shape.mla.nope_dim + shape.mla.rope_dim if shape.mla else shape.head_dim
    return 2 * seen * shape.heads * head / active_parameters(shape)


def _talk(shape: Shape, layout: Layout, tokens: float, gpu: Gpu) -> float:
    """Seconds of a step's all-reduces among a TP group, each of so many tokens' activations in 16 bits."""
    if layout.tp == 1:
        return 0.0
    moved = 2 * (layout.tp - 1) / layout.tp * tokens * shape.hidden * 2
    link = gpu.link if layout.has_tp_inside_nodes else None
    return shape.layers * ALL_REDUCES * (ALL_REDUCE_S + moved / ((link or PCIE) * 1e9 * LINK_SHARE))
