"""--reproducible: a row's tokens do not depend on the rows beside it: vLLM's batch-invariant mode, and what it lacks.

vLLM reads the variable when its modules are imported, and then takes kernels whose order of summing does not depend on
the batch: for matrix products, softmax, norms, attention (which back-end can, it knows) and NCCL. It turns off what
cannot: cascade attention, custom and fused all-reduce. It has that for NVIDIA's GPUs from Ampere on (0.26), in later
versions for AMD's and Intel's (vllm/model_executor/determinism).

Alone it did not keep its word on an H200 with vLLM 0.26 (docs/determinism.md). ``arguments`` takes the parts of vLLM
that do, and the patches of vllm_patches/same_bits.py the rest.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from vllm_hpc.spec.errors import RequestError

_VARIABLE = "VLLM_BATCH_INVARIANT"
_HOME = "vllm.model_executor.determinism"
# FlashAttention 3 takes other kernels for a step that only decodes than for one that also prefills.
_ATTENTION = "TRITON_ATTN"
# Else torch.compile writes its own, which sum in an order that depends on the sizes it compiles for.
_NORM = "rms_norm"
_AMPERE = 80


def ask_for() -> None:
    """Turn the mode on. Call it before vLLM is imported."""
    os.environ[_VARIABLE] = "1"


def check_device() -> None:
    """Refuse a device for which the installed vLLM does not have the mode. Raises RequestError."""
    from vllm.platforms import current_platform

    if why := _why_not(current_platform):
        raise RequestError(f"--reproducible: {why}: use other GPUs or another vLLM, or leave it out")


def arguments(given: dict[str, Any], has_mla: bool) -> dict[str, Any]:
    """Engine arguments that make sums keep one order, where ``given`` does not say otherwise.

    ``has_mla``: the model has multi-head latent attention, whose back-ends are others; vLLM chooses among those that
    can.
    """
    found: dict[str, Any] = {}
    if not has_mla and not given.get("attention_backend") and not given.get("attention_config"):
        found["attention_backend"] = _ATTENTION
    compilation = given.get("compilation_config") or {}
    if isinstance(compilation, dict):
        operations = list(compilation.get("custom_ops") or [])
        if not {"all", f"+{_NORM}", f"-{_NORM}"}.intersection(operations):
            found["compilation_config"] = {**compilation, "custom_ops": [*operations, f"+{_NORM}"]}
    return found


def _why_not(platform: Any) -> str:
    from vllm import __version__

    if platform.is_cpu():
        return "vLLM has no batch-invariant mode on the CPU"
    if platform.is_cuda():
        return "" if platform.has_device_capability(_AMPERE) else "vLLM's batch-invariant mode is for Ampere and newer"
    return "" if find_spec(_HOME) else f"vLLM {__version__} has no batch-invariant mode on these GPUs"
