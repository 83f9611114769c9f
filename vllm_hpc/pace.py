"""How long a layout needs for an input: an estimate, of steps of decoding and of prompts.

Of large batches replicas make the most, for nothing is talked about between them. Of few rows a TP group does: each
replica reads all weights in every step, however few rows it has, and a TP group reads them once, each rank its part.
"""

from __future__ import annotations

from vllm_hpc.gpus import Gpu
from vllm_hpc.layout import Layout
from vllm_hpc.memory import Fit, Load, kv_bytes_per_token
from vllm_hpc.models.config import Shape
from vllm_hpc.models.count import active_parameters, count_parameters
from vllm_hpc.survey import Survey

# Of the data sheet's peaks, what was measured with the 8B shape on H100 (docs/performance.md, "Layer by layer"):
# products of prompts at 698 of 989 TFLOP/s, KV cache read at 2.2 of 3.35 TB/s; all-reduces of 1 GiB by NCCL, without
# NVLink multicast, at 355 of 900 GB/s (bus bandwidth, 4 GPUs).
FLOPS_SHARE, BANDWIDTH_SHARE, LINK_SHARE = 0.7, 0.65, 0.39
# What a step takes beside: between kernels 1.0 ms there, and what samples and schedules a middling number of rows.
STEP_S = 2e-3
# What an all-reduce takes that does not follow from its size; two a layer.
ALL_REDUCE_S, ALL_REDUCES = 15e-6, 2
# GB/s both ways where GPUs have no NVLink, or none that is known: PCIe 4.0 x16, of which the same share counts.
PCIE = 64.0
# Without it, layouts with TP were 9 to 14 % slower than estimated, those without 8 % slower to 4 % faster.
TP_MORE = 1.1


def estimate_seconds(
    shape: Shape, load: Load, layout: Layout, fit: Fit, survey: Survey, gpu: Gpu, at_once: float, overlaps: bool = False
) -> float:
    """Seconds from the first step to the last on GPUs of known speed.

    ``at_once``: sequences that a replica runs at once, at most. All count as of the same length. Stages of PP work in
    turns, as under external_launcher; or at once where that ``overlaps``, each on its part of the sequences, so that
    it reads its weights for every part. A TP group counts as on one node.
    """
    sequences = max(1, -(-survey.sequences // layout.dp))
    running = min(sequences, max(1, int(at_once)))
    flops = 2 * active_parameters(shape) / (gpu.tflops * 1e12 * FLOPS_SHARE) / layout.tp
    stages = layout.pp if overlaps else 1
    bandwidth = gpu.bandwidth * 1e12 * BANDWIDTH_SHARE
    # Of experts, a step reads those that its rows are sent to.
    every = max(active_parameters(shape), count_parameters(shape) or 0)
    output = survey.output_tokens / max(1, survey.sequences)
    context = survey.prompt_tokens / max(1, survey.rows) + output / 2

    def step(running: int) -> float:
        parts = min(stages, running)
        part = running / parts
        touched = min(1.0, part * active_parameters(shape) / every)
        weights = touched * fit.rank_weights * layout.pp / bandwidth
        cache = part * context * kv_bytes_per_token(shape, layout.tp, load.kv_bytes) / bandwidth
        # What a part takes through all stages; meanwhile the others do the same behind it.
        return max(weights, part * flops) + cache + _talk(shape, layout, part, gpu) + parts * STEP_S

    waves, rest = divmod(sequences, running)
    prompts = survey.prompt_tokens / layout.dp
    prefill = prompts / stages * flops + prompts / stages / load.max_num_batched_tokens * _talk(
        shape, layout, load.max_num_batched_tokens, gpu
    )
    seconds = prefill + output * (waves * step(running) + (step(rest) if rest else 0.0))
    return seconds if layout.tp == 1 else TP_MORE * seconds


def _talk(shape: Shape, layout: Layout, tokens: float, gpu: Gpu) -> float:
    """Seconds of a step's all-reduces among a TP group, each of so many tokens' activations in 16 bits."""
    if layout.tp == 1:
        return 0.0
    moved = 2 * (layout.tp - 1) / layout.tp * tokens * shape.hidden * 2
    return shape.layers * ALL_REDUCES * (ALL_REDUCE_S + moved / ((gpu.link or PCIE) * 1e9 * LINK_SHARE))
