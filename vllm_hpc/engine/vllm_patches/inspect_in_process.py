"""Let vLLM look at a model's class in this process, which has CUDA in use by then.

It would import itself anew in another one, the first time of a model, to keep CUDA out of this one: 10 to 20 s.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

from vllm.model_executor.models import registry

from vllm_hpc.engine.vllm_patches.replace import replaced

T = TypeVar("T")


def inspecting_here() -> AbstractContextManager[None]:
    """Within it, models are looked at in this process."""
    return replaced(registry, "_run_in_subprocess", _run_here)


def _run_here(look: Callable[[], T]) -> T:
    return look()
