"""The engine's settings that go with a model, a device and an input; what --engine names is left alone."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.gpus import GIB
from vllm_hpc.hardware import Device
from vllm_hpc.memory import DTYPE_BYTES, UTILIZATION, Load
from vllm_hpc.models.config import Shape
from vllm_hpc.models.quantization import online
from vllm_hpc.survey import Survey

# vLLM captures CUDA graphs for up to so many sequences (config/vllm.py, max_cudagraph_capture_size). Above, decode
# steps are launched kernel by kernel: on 4 H100, TP=4, 512 instead of the default 1024 gave 1.8 times the tokens/s.
LARGEST_GRAPH = 512
# vLLM's own defaults for LLM() (engine/arg_utils.py, get_batch_defaults): large GPUs but for the A100, and others.
LARGE_GPU_GIB = 70
BATCHED_TOKENS = {True: 16_384, False: 8_192}
SEQUENCES = {True: LARGEST_GRAPH, False: 256}
# Where nobody said how long rows are.
ASSUMED_TOKENS = 2048


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Arguments for vLLM, what they mean for memory, and why; ``sequence_tokens`` is what a row takes on average."""

    engine: dict[str, Any]
    load: Load
    sequence_tokens: int
    reasons: tuple[str, ...] = ()


def choose_settings(
    shape: Shape, device: Device | None, survey: Survey | None, given: dict[str, Any], kv_cache_gib: float
) -> Settings:
    """Settings for vLLM. ``given`` is --engine's; ``kv_cache_gib`` is the size of the KV cache on the CPU."""
    engine: dict[str, Any] = {}
    reasons: list[str] = []
    length = _length(shape, survey, given, engine, reasons)
    if device and device.gpu:
        _batch(device, given, engine, reasons)
    merged = {**engine, **given}
    dtype = str(merged.get("dtype", "auto"))
    weight_bytes = DTYPE_BYTES.get(shape.dtype if dtype == "auto" else dtype, 2)
    if dtype == "auto" and weight_bytes > 2:  # vLLM loads float32 models as bfloat16 unless it is asked not to
        weight_bytes = 2
    load = Load(
        max_model_len=length,
        max_num_seqs=_whole(merged.get("max_num_seqs"), SEQUENCES[False]),
        max_num_batched_tokens=_whole(merged.get("max_num_batched_tokens"), BATCHED_TOKENS[False]),
        weight_bytes=weight_bytes,
        kv_bytes=1 if str(merged.get("kv_cache_dtype", "auto")).startswith(("fp8", "int8")) else weight_bytes,
        utilization=_share(merged.get("gpu_memory_utilization")),
        quantization=online(merged.get("quantization")),
        kv_cache_bytes=_kv_cache_bytes(device, merged, kv_cache_gib),
    )
    typical = survey.tokens_per_row if survey else min(ASSUMED_TOKENS, length)
    return Settings(engine=engine, load=load, sequence_tokens=min(typical, length), reasons=tuple(reasons))


def _length(
    shape: Shape, survey: Survey | None, given: dict[str, Any], engine: dict[str, Any], reasons: list[str]
) -> int:
    """max_model_len: what the longest row can take, where that is less than the model's own."""
    if (asked := given.get("max_model_len")) is not None:
        return _whole(asked, shape.positions)
    if survey is None or survey.is_sample or survey.longest >= shape.positions:
        return shape.positions
    engine["max_model_len"] = survey.longest
    reasons.append(
        f"max_model_len {survey.longest}: no row and its max_tokens can take more (the model could: {shape.positions})"
    )
    return survey.longest


def _batch(device: Device, given: dict[str, Any], engine: dict[str, Any], reasons: list[str]) -> None:
    """max_num_seqs and max_num_batched_tokens for a GPU."""
    assert device.gpu is not None
    large = device.gpu.memory_gib >= LARGE_GPU_GIB and not device.gpu.name.startswith("a100")
    if "max_num_batched_tokens" not in given:
        engine["max_num_batched_tokens"] = BATCHED_TOKENS[large]
    if "max_num_seqs" not in given:
        engine["max_num_seqs"] = SEQUENCES[large]
        if large:
            reasons.append(f"max_num_seqs {LARGEST_GRAPH}: the largest CUDA graph that vLLM captures")


def _kv_cache_bytes(device: Device | None, merged: dict[str, Any], kv_cache_gib: float) -> int | None:
    given = merged.get("kv_cache_memory_bytes")
    if type(given) is int and given > 0:
        return given
    return int(kv_cache_gib * GIB) if device and device.gpu is None else None


def _whole(value: Any, default: int) -> int:
    return value if type(value) is int and value > 0 else default


def _share(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and 0 < value <= 1 else UTILIZATION
