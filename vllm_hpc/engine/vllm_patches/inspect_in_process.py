"""Let vLLM inspect a model's class in this process, which already uses CUDA by then.

For a model's first start, vLLM would import itself again in a new process, to keep CUDA out of this one: 10 to 20 s.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from vllm.model_executor.models import registry

from vllm_hpc.engine.vllm_patches.replace import replaced

T = TypeVar("T")


def inspecting_here() -> AbstractContextManager[None]:
    """Inside this context, models are inspected in this process."""
    return replaced(registry, "_run_in_subprocess", _run_here)


def _run_here(look: Callable[[], T]) -> T:
    return look()
