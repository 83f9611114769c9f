"""What a GPU's ceilings allow for a case: seconds of products, of attention, and of what decoding reads.

As in docs/performance.md, "The roofline": products of all tokens at the highest speed of matrix products that was
measured, twice that in fp8 (the data sheet's ratio, not measured), and a step of decoding at whichever is longer,
reading weights and KV cache or its products.
"""

from __future__ import annotations

from typing import NamedTuple

from benchmarks.gpu.case import Case
from benchmarks.gpu.lengths import LENGTHS
from benchmarks.gpu.shapes import SHAPES
from vllm_hpc.planner.kv_cache import kv_bytes_per_token
from vllm_hpc.planner.models.config import Shape, read_shape
from vllm_hpc.planner.models.count import active_parameters, count_parameters
from vllm_hpc.spec.vllm_defaults import LARGEST_GRAPH, whole

# Measured on H200: FLOP/s of bf16 products, bytes/s (docs/performance.md).
FLOPS, BANDWIDTH = 790e12, 4.3e12
CEILINGS = f"{FLOPS / 1e12:.0f} TFLOP/s in bf16, twice that in fp8, and {BANDWIDTH / 1e12:.1f} TB/s"


class Roofline(NamedTuple):
    """Seconds on each GPU: of prompts, their products and attention; of decoding, what it reads and its products."""

    products: float
    attention: float
    reads: float
    decoding: float

    @property
    def whole(self) -> float:
        """Prompts, then decoding, which reads while it multiplies."""
        return self.products + self.attention + max(self.reads, self.decoding)


def roofline_of(case: Case) -> Roofline:
    """Of a case's rows and settings; replicas share them out evenly, and a TP group its work."""
    shape = read_shape(SHAPES[case.shape], case.shape)
    drawn = LENGTHS[case.lengths].of_prompts(case.prompts) if case.lengths else [case.prompt] * case.prompts
    is_fp8 = case.engine.get("quantization") == "fp8" or "quantization_config" in case.engine.get("hf_overrides", {})
    kv_bytes = 1 if str(case.engine.get("kv_cache_dtype", "auto")).startswith("fp8") else 2
    flops = FLOPS * (2 if is_fp8 else 1) * case.gpus
    active = active_parameters(shape)
    outputs = case.output * case.prompts
    read = sum(tokens + case.output / 2 for tokens in drawn) * case.output * kv_bytes_per_token(shape, 1, kv_bytes)
    read += _steps(case) * (count_parameters(shape) or active) * (1 if is_fp8 else 2)
    return Roofline(
        products=2 * active * sum(drawn) / flops,
        attention=_attention(shape, drawn) / (FLOPS * case.gpus),
        reads=read / (BANDWIDTH * case.gpus),
        decoding=2 * active * outputs / flops,
    )


def _steps(case: Case) -> float:
    """Steps of decoding over all replicas, each full; whole weights are read in each."""
    at_once = whole(case.engine.get("max_num_seqs"), LARGEST_GRAPH)
    return case.output * max(1.0, case.prompts / at_once)


def _attention(shape: Shape, prompts: list[int]) -> float:
    """FLOP of prompts' attention: two products a layer, each token with half of its prompt."""
    return sum(2 * tokens * tokens * shape.layers * shape.heads * shape.head_dim for tokens in prompts)
