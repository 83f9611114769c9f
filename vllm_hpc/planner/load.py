"""What an engine is asked to hold, as the planner counts it."""

from __future__ import annotations

import msgspec

from vllm_hpc.planner.models.quantization import Quantization

DTYPE_BYTES = {"float64": 8, "float32": 4, "float": 4, "bfloat16": 2, "float16": 2, "half": 2}
UTILIZATION = 0.92  # vLLM's default of gpu_memory_utilization (config/cache.py)


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What the engine must hold: tokens and sequences; dtypes as bytes per element."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    weight_bytes: int = 2
    kv_bytes: int = 2
    utilization: float = UTILIZATION
    quantization: Quantization | None = None
    kv_cache_bytes: int | None = None  # given in bytes: kv_cache_memory_bytes, or VLLM_CPU_KVCACHE_SPACE
