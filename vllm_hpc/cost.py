"""What an input will cost: GPU-hours from its tokens and an honest rate, as a range, with its basis named."""

from __future__ import annotations

from vllm_hpc.gpus import Gpu
from vllm_hpc.history import Measured
from vllm_hpc.layout import Layout
from vllm_hpc.memory import Fit, kv_bytes_per_token
from vllm_hpc.models.count import active_parameters
from vllm_hpc.needs import Needs
from vllm_hpc.plan import Cost
from vllm_hpc.survey import Survey

# What real runs reached of the roofline below, with the data sheet's peaks (Llama 3.1 8B, 4 H100): 0.52 as four
# replicas with 8192 prompts, 0.14 as TP=4 and 0.11 as TP=2 x PP=2 with 2048 prompts.
ROOFLINE_SHARES = (0.1, 0.6)
# A measured rate is of prompts and outputs together; it holds for an input with other shares within this factor.
MEASURED_SPREAD = 2.0
# Import, load, and compile before the first token: 1 to 5 minutes were measured; large checkpoints take longer.
START_S = (60.0, 300.0)


def estimate(needs: Needs, layout: Layout, fit: Fit | None, survey: Survey, measured: Measured | None) -> Cost | None:
    """GPU-hours for an input on that layout. None on the CPU, or where neither a rate nor the GPU is known."""
    gpu = needs.device.gpu if needs.device else None
    tokens = survey.prompt_tokens + survey.output_tokens
    if measured is not None:
        seconds = tokens / measured.tokens_per_s_per_gpu
        low, high = seconds / MEASURED_SPREAD, seconds * MEASURED_SPREAD
        basis = f"the rate of {measured.jobs} earlier job(s) of this model, GPU and layout"
    elif gpu is not None and gpu.tflops and fit is not None and fit.fits:
        ideal = roofline_seconds(needs, layout, fit, survey, gpu)
        low, high = ideal / ROOFLINE_SHARES[1], ideal / ROOFLINE_SHARES[0]
        low_share, high_share = ROOFLINE_SHARES
        basis = f"{low_share:.0%} to {high_share:.0%} of the roofline of {gpu.name} (no earlier job to measure by)"
    else:
        return None
    outputs = "as if every row used its max_tokens"
    counted = f"prompt tokens from {'a sample of the input' if survey.is_sample else 'bytes'}"
    return Cost(
        gpu_hours_low=_hours(low + START_S[0] * layout.all_ranks),
        gpu_hours_high=_hours(high + START_S[1] * layout.all_ranks),
        prompt_tokens=survey.prompt_tokens,
        output_tokens=survey.output_tokens,
        basis=f"{basis}; {counted}, {outputs}; start-up of {START_S[0]:.0f} to {START_S[1]:.0f} s a GPU",
    )


def roofline_seconds(needs: Needs, layout: Layout, fit: Fit, survey: Survey, gpu: Gpu) -> float:
    """GPU-seconds that the input takes at the GPU's full speed.

    Prefill: 2 FLOP a parameter and token. Decode: a step reads the replica's weights once and the KV cache of every
    sequence in it, and multiplies 2 FLOP a parameter and sequence; the slower of the two decides.
    """
    shape, load = needs.shape, needs.settings.load
    flops, bandwidth = gpu.tflops * 1e12, gpu.bandwidth * 1e12
    prefill = 2 * active_parameters(shape) * survey.prompt_tokens / flops
    rows = max(1.0, min(needs.concurrent(fit), survey.rows / layout.dp))
    context = survey.tokens_per_row * kv_bytes_per_token(shape, element=load.kv_bytes)
    memory = (fit.weights + rows * context) / bandwidth
    compute = 2 * active_parameters(shape) * rows / flops
    # Of PP stages one works at a time: vLLM does not overlap them under external_launcher.
    in_turns = 1 if needs.overlaps_stages else layout.pp
    return in_turns * (prefill + survey.output_tokens / rows * max(memory, compute))


def _hours(seconds: float) -> float:
    return round(seconds / 3600, 4 if seconds < 360 else 2)
