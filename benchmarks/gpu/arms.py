"""Cases that differ in nothing but their engine settings (arms), or in the limits of one engine (a sweep).

For MLPerf's lengths (``--shape-of mlperf-8b``) the arms are precisions and batches: by default bf16 and fp8 through
`vllm-hpc submit`, in turns. Dummy weights, so none of these says what an answer is worth.
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.gpu.case import Case
from benchmarks.gpu.limits import Limits
from vllm_hpc.planner.engine_settings import BATCHED_TOKENS

_FP8 = {"quantization": "fp8"}
_FP8_KV = {**_FP8, "kv_cache_dtype": "fp8"}
# As a checkpoint says it that brings the scales of its activations, so that none is measured while it runs.
_STATIC = {"hf_overrides": {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}}}
# In the order of what is expected of them over fp8 (docs/performance.md).
ARMS: dict[str, dict[str, Any]] = {
    "bf16": {},
    "fp8": _FP8,
    "fp8-1024": {**_FP8, "max_num_seqs": 1024},
    "fp8-kv": _FP8_KV,
    "fp8-static-kv": {**_STATIC, "kv_cache_dtype": "fp8"},
    "fp8-kv-1024": {**_FP8_KV, "max_num_seqs": 1024},
    "fp8-kv-1024-32k": {**_FP8_KV, "max_num_seqs": 1024, "max_num_batched_tokens": 32_768},
    "fp8-kv-1024-8k": {**_FP8_KV, "max_num_seqs": 1024, "max_num_batched_tokens": 8_192},
    "fp8-kv-amd": {**_FP8_KV, "max_num_seqs": 1792, "max_num_batched_tokens": 65_536},
}
# What a submit is given: the rest is the planner's.
_OF_SUBMIT = {"load_format": "dummy"}


def arm_cases(base: Case, engine: dict[str, Any], arms: list[str], sweep: list[Limits], times: int) -> list[Case]:
    """One case for each arm, its rounds in one start; of a submit one for each time and arm, in turns.

    ``engine``: what the benchmark gives an engine of its own. Of a ``sweep`` every arm's engine has the most sequences
    and tokens of it.
    """
    is_submit = base.ways == ("submit",) and not sweep
    usual = _OF_SUBMIT if is_submit else engine
    found: list[Case] = []
    for turn in range(times if is_submit else 1):
        for arm in arms or [""]:
            settings = {**(ARMS[arm] if arm else {}), **base.settings}
            ways, limits = _swept(sweep, {**usual, **settings}) if sweep else (base.ways, {})
            found.append(
                msgspec.structs.replace(
                    base, ways=ways, engine={**usual, **settings, **limits}, settings=settings, arm=arm, turn=turn,
                    times=1 if is_submit else times,
                )
            )  # fmt: skip
    return found


def _swept(sweep: list[Limits], engine: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The ways, each with its tokens, and the engine's limits."""
    usual = int(engine.get("max_num_batched_tokens", BATCHED_TOKENS[True]))
    whole = [(one.sequences, one.tokens or max(usual, one.sequences)) for one in sweep]
    sequences, tokens = (max(column) for column in zip(*whole, strict=True))
    ways = tuple(dict.fromkeys(Limits(*one).way for one in whole))
    return ways, {"max_num_seqs": sequences, "max_num_batched_tokens": tokens}
