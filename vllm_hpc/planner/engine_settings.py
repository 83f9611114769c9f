"""Chooses engine settings for a model, a device and an input; those given with --engine are kept."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from vllm_hpc.planner.load import DTYPE_BYTES, UTILIZATION, Load
from vllm_hpc.planner.models.config import Shape
from vllm_hpc.planner.models.quantization import online
from vllm_hpc.planner.workload import Workload
from vllm_hpc.spec.device import Device
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.gpus import GIB
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.vllm_defaults import CPU_KV_CACHE_GIB, LARGEST_GRAPH, is_large_gpu, whole

# vLLM's own defaults for LLM() (engine/arg_utils.py, get_batch_defaults), by whether the GPU is large (not the A100).
BATCHED_TOKENS = {True: 16_384, False: 8_192}
SEQUENCES = {True: LARGEST_GRAPH, False: 256}
# Tokens of a step, of all lanes together, that each rank's experts get: as many as without lanes. With more than 16k,
# FlashInfer's kernel for experts in fp8 blocks has failed (vLLM issue 34249).
GATHERED_TOKENS = BATCHED_TOKENS[True]
# If the length of rows is unknown.
ASSUMED_TOKENS = 2048
# The smallest max_model_len for any input: it takes almost no memory.
LEAST_LENGTH = 1024
# The end of the reason where no row has been read yet.
MAY_BE_LESS = ": submit reads all rows, and may set a smaller one"
# Arguments that change memory or the model in ways that the planner does not compute.
NOT_MODELLED = (
    "cpu_offload_gb", "speculative_config", "enable_lora", "num_gpu_blocks_override", "block_size",
    "decode_context_parallel_size", "kv_offloading_size", "enable_expert_parallel",
)  # fmt: skip


def not_modelled(given: dict[str, Any], is_quantized: bool = False) -> str | None:
    """Why memory cannot be computed with these engine arguments, None if it can.

    ``is_quantized``: the model's own weights are quantised, and ``quantization`` only says which kernels run them.
    """
    for name in NOT_MODELLED:
        if given.get(name) not in (None, 0, False, "auto"):
            return f"memory is not checked: the planner does not account for --engine {name}"
    if given.get("max_model_len") in (-1, "auto", "-1"):
        return "memory is not checked: vLLM chooses max_model_len to fit"
    quantization = online(given.get("quantization"))
    if quantization and quantization.bits is None and not is_quantized:
        return f"memory is not checked: the planner does not know quantization={quantization.method}"
    return None


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Engine arguments, their effect on memory, and the reasons; ``sequence_tokens`` is a row's average length."""

    engine: dict[str, Any]
    load: Load
    sequence_tokens: int
    reasons: tuple[str, ...] = ()


def choose_settings(
    shape: Shape, device: Device | None, workload: Workload | None, given: dict[str, Any], kv_cache_gib: float
) -> Settings:
    """Settings for vLLM. ``given`` has the arguments of --engine; ``kv_cache_gib`` is the KV cache size on the CPU."""
    _check_given(given)
    engine: dict[str, Any] = {}
    reasons: list[str] = []
    length = _length(shape, workload, given, engine, reasons)
    if device and device.gpu:
        _batch(device, given, engine, reasons)
    merged = {**engine, **given}
    dtype = str(merged.get("dtype", "auto"))
    weight_bytes = DTYPE_BYTES.get(shape.dtype if dtype == "auto" else dtype, 2)
    if dtype == "auto" and weight_bytes > 2:  # vLLM loads float32 models as bfloat16 unless it is asked not to
        weight_bytes = 2
    load = Load(
        max_model_len=length,
        max_num_seqs=whole(merged.get("max_num_seqs"), SEQUENCES[False]),
        max_num_batched_tokens=whole(merged.get("max_num_batched_tokens"), BATCHED_TOKENS[False]),
        weight_bytes=weight_bytes,
        kv_bytes=1 if str(merged.get("kv_cache_dtype", "auto")).startswith(("fp8", "int8")) else weight_bytes,
        utilization=share_of_memory(merged.get("gpu_memory_utilization")),
        quantization=online(merged.get("quantization")),
        kv_cache_bytes=_kv_cache_bytes(device, merged, kv_cache_gib),
    )
    typical = workload.tokens_per_row if workload else min(ASSUMED_TOKENS, length)
    return Settings(engine=engine, load=load, sequence_tokens=min(typical, length), reasons=tuple(reasons))


def _length(
    shape: Shape, workload: Workload | None, given: dict[str, Any], engine: dict[str, Any], reasons: list[str]
) -> int:
    """max_model_len: the tokens of the longest row, if that is less than the model's own limit."""
    if (asked := whole(given.get("max_model_len"), 0)) > 0:
        if asked > shape.positions and not os.environ.get("VLLM_ALLOW_LONG_MAX_MODEL_LEN"):
            raise RequestError(
                f"--engine max_model_len={asked} is more than the model's {shape.positions}: use at most that, "
                "or export VLLM_ALLOW_LONG_MAX_MODEL_LEN=1"
            )
        return asked
    if workload is None or workload.is_sample:
        reasons.append(f"max_model_len {shape.positions}, the model's own{MAY_BE_LESS}")
        return shape.positions
    if workload.longest is None:
        return shape.positions
    if workload.longest >= shape.positions:
        if workload.longest > shape.positions:
            reasons.append(
                f"rows may need up to {workload.longest} tokens: outputs end at the model's context of "
                f"{shape.positions}, and prompts that fill it become error rows"
            )
        return shape.positions
    engine["max_model_len"] = workload.longest
    reasons.append(
        f"max_model_len: no row with its max_tokens needs more than {workload.longest} tokens "
        f"(the model allows {shape.positions})"
    )
    return workload.longest


def round_up(settings: Settings, shape: Shape, given: dict[str, Any]) -> Settings:
    """Round max_model_len, if set from the longest row, up to a value that other inputs will use too.

    vLLM recompiles for every different value (0.26, 0.32). It becomes a power of two, or the model's own limit, which
    needs no argument. Not without chunked prefill (``given``, from --engine): there max_num_batched_tokens must hold a
    whole sequence.
    """
    if "max_model_len" not in settings.engine or not given.get("enable_chunked_prefill", True):
        return settings
    length = min(shape.positions, max(LEAST_LENGTH, 1 << (settings.engine["max_model_len"] - 1).bit_length()))
    engine = {**settings.engine, "max_model_len": length}
    if length == shape.positions:
        del engine["max_model_len"]
    load = msgspec.structs.replace(settings.load, max_model_len=length)
    return msgspec.structs.replace(settings, engine=engine, load=load)


def with_sequences(settings: Settings, number: int, why: str = "") -> Settings:
    """The same settings with max_num_seqs = ``number``, and the reason."""
    others = (reason for reason in settings.reasons if not reason.startswith("max_num_seqs"))
    return msgspec.structs.replace(
        settings,
        engine={**settings.engine, "max_num_seqs": number},
        load=msgspec.structs.replace(settings.load, max_num_seqs=number),
        reasons=(*others, f"max_num_seqs {number}: {why}"),
    )


def for_lanes(settings: Settings, lanes: int) -> Settings:
    """The same settings with fewer tokens a step, where those of several lanes come to every rank.

    A number that --engine gives is kept.
    """
    own = settings.engine.get("max_num_batched_tokens")
    if lanes == 1 or own is None:
        return settings
    number = min(own, max(settings.load.max_num_seqs, GATHERED_TOKENS // lanes))
    if number == own:
        return settings
    return msgspec.structs.replace(
        settings,
        engine={**settings.engine, "max_num_batched_tokens": number},
        load=msgspec.structs.replace(settings.load, max_num_batched_tokens=number),
        reasons=(*settings.reasons, f"max_num_batched_tokens {number}: those of {lanes} lanes come to every rank"),
    )


def _batch(device: Device, given: dict[str, Any], engine: dict[str, Any], reasons: list[str]) -> None:
    """Set max_num_seqs and max_num_batched_tokens for a GPU."""
    assert device.gpu is not None
    large = is_large_gpu(device.gpu.name, device.gpu.memory_gib)
    if "max_num_batched_tokens" not in given and given.get("enable_chunked_prefill", True):
        engine["max_num_batched_tokens"] = BATCHED_TOKENS[large]
    if "max_num_seqs" not in given:
        # vLLM refuses more sequences than tokens per step.
        engine["max_num_seqs"] = min(SEQUENCES[large], whole(given.get("max_num_batched_tokens"), LARGEST_GRAPH))
        if engine["max_num_seqs"] == LARGEST_GRAPH:
            reasons.append(f"max_num_seqs {LARGEST_GRAPH}: the largest CUDA graph that vLLM captures")


def _kv_cache_bytes(device: Device | None, merged: dict[str, Any], kv_cache_gib: float) -> int | None:
    if given := whole(merged.get("kv_cache_memory_bytes"), 0):
        return given
    return int(kv_cache_gib * GIB) if device and device.gpu is None else None


def _check_given(given: dict[str, Any]) -> None:
    """Refuse values now that vLLM would refuse after the job's time in the queue. Raises RequestError."""
    for name in ("max_model_len", "max_num_seqs", "max_num_batched_tokens", "kv_cache_memory_bytes"):
        value = given.get(name)
        if value is not None and not whole(value, 0) and not (name == "max_model_len" and value in (-1, "-1", "auto")):
            raise RequestError(f"--engine {name}={value!r} must be a whole number above 0")
    dtype = given.get("dtype")
    if dtype is not None and dtype != "auto" and dtype not in DTYPE_BYTES:
        raise RequestError(f"--engine dtype={dtype!r} is not known: use auto, {', '.join(DTYPE_BYTES)}")


def share_of_memory(value: Any) -> float:
    """gpu_memory_utilization. Raises RequestError for a value that vLLM would refuse."""
    if value is None:
        return UTILIZATION
    try:
        share = float(value)
    except (TypeError, ValueError):
        share = 0.0
    if not 0 < share <= 1:
        raise RequestError(f"--engine gpu_memory_utilization={value!r} must be a number above 0 and at most 1")
    return share


def cpu_kv_cache_gib(request: Request) -> int:
    """The value of VLLM_CPU_KVCACHE_SPACE on the ranks, in GiB. Raises RequestError."""
    name = "VLLM_CPU_KVCACHE_SPACE"
    text = request.env.get(name) or os.environ.get(name) or str(CPU_KV_CACHE_GIB)
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1_000_000:
        raise RequestError(f"{name} must be a whole number of GiB, not {text!r}")
    return int(text)
