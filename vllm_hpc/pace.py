"""How long layouts need for an input: an estimate to compare them by, of steps of decoding and of prompts.

Of large batches replicas make the most, for nothing is talked about between them. Of few rows a TP group does: each
replica reads all weights in every step, however few rows it has, and a TP group reads them once, each rank its part.
"""

from __future__ import annotations

from vllm_hpc.gpus import Gpu
from vllm_hpc.layout import Layout
from vllm_hpc.memory import Fit, Load, kv_bytes_per_token
from vllm_hpc.models.config import Shape
from vllm_hpc.models.count import active_parameters
from vllm_hpc.survey import Survey

# Of the data sheet's peaks, what was measured with the 8B shape on H100 (docs/performance.md, "Layer by layer"):
# products of prompts at 698 of 989 TFLOP/s, KV cache read at 2.2 of 3.35 TB/s; all-reduces of 1 GiB by NCCL, without
# NVLink multicast, at 355 of 900 GB/s (bus bandwidth, 4 GPUs).
FLOPS_SHARE, BANDWIDTH_SHARE, LINK_SHARE = 0.7, 0.65, 0.39
# What a step takes that does not follow from its size: sampling, and what lies between kernels (1.8 and 1.0 ms there).
STEP_S = 2e-3
# What an all-reduce takes that does not follow from its size; two a layer.
ALL_REDUCE_S, ALL_REDUCES = 15e-6, 2


def estimate_seconds(
    shape: Shape, load: Load, layout: Layout, fit: Fit, survey: Survey, gpu: Gpu, at_once: float
) -> float:
    """Seconds from the first step to the last on GPUs of known speed and link.

    ``at_once``: sequences that a replica runs at once, at most. All rows count as of the same length, and stages of PP
    as working in turns.
    """
    rows = max(1.0, survey.rows / layout.dp)
    waves = rows / min(rows, max(1.0, at_once))
    running = rows / waves
    flops = 2 * active_parameters(shape) / (gpu.tflops * 1e12 * FLOPS_SHARE) / layout.tp
    bandwidth = gpu.bandwidth * 1e12 * BANDWIDTH_SHARE
    # Of experts, a step reads those that its rows are sent to.
    touched = min(1.0, running * active_parameters(shape) * load.weight_bytes / max(1, fit.weights))
    weights = touched * fit.rank_weights * layout.pp / bandwidth
    context = (survey.prompt_tokens + survey.output_tokens / 2) / max(1, survey.rows)
    cache = running * context * kv_bytes_per_token(shape, layout.tp, load.kv_bytes) / bandwidth
    step = max(weights, running * flops) + cache + _talk(shape, layout, running, gpu) + STEP_S
    prompts = survey.prompt_tokens / max(1, survey.rows) * rows
    prefill = prompts * flops + _talk(shape, layout, load.max_num_batched_tokens, gpu) * (
        prompts / load.max_num_batched_tokens
    )
    return prefill + waves * step * survey.output_tokens / max(1, survey.rows)


def _talk(shape: Shape, layout: Layout, tokens: float, gpu: Gpu) -> float:
    """Seconds of a step's all-reduces among a TP group, each of so many tokens' activations in 16 bits."""
    if layout.tp == 1:
        return 0.0
    moved = 2 * (layout.tp - 1) / layout.tp * tokens * shape.hidden * 2
    return shape.layers * ALL_REDUCES * (ALL_REDUCE_S + moved / (gpu.link * 1e9 * LINK_SHARE))
