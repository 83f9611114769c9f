"""--reproducible: vLLM's batch-invariant mode, in which a row's tokens do not depend on the rows beside it.

vLLM reads the variable when its modules are imported, and then takes kernels whose order of summing does not depend on
the batch: for matrix products, softmax, norms, attention (which back-end can, it knows) and NCCL. It turns off what
cannot: cascade attention, custom and fused all-reduce. It has that for NVIDIA's GPUs from Ampere on (0.26), in later
versions for AMD's and Intel's (vllm/model_executor/determinism).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from vllm_hpc.spec.errors import RequestError

_VARIABLE = "VLLM_BATCH_INVARIANT"
_HOME = "vllm.model_executor.determinism"
_AMPERE = 80


def ask_for() -> None:
    """Turn the mode on. Call it before vLLM is imported."""
    os.environ[_VARIABLE] = "1"


def check_device() -> None:
    """Refuse a device for which the installed vLLM does not have the mode. Raises RequestError."""
    from vllm.platforms import current_platform

    if why := _why_not(current_platform):
        raise RequestError(f"--reproducible: {why}: use other GPUs or another vLLM, or leave it out")


def _why_not(platform: Any) -> str:
    from vllm import __version__

    if platform.is_cpu():
        return "vLLM has no batch-invariant mode on the CPU"
    if platform.is_cuda():
        return "" if platform.has_device_capability(_AMPERE) else "vLLM's batch-invariant mode is for Ampere and newer"
    return "" if find_spec(_HOME) else f"vLLM {__version__} has no batch-invariant mode on these GPUs"
