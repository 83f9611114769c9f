"""Times vLLM's methods that start an engine. It never raises: what it cannot time is missing from the record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher
from vllm.v1.worker.worker_base import WorkerWrapperBase

from vllm_hpc.engine.vllm_patches.replace import replaced

# What a start of the engine consists of, by the method of vLLM that does it (vllm/v1/engine/core.py calls them in this
# order): the device and its communicators; these and the weights; a run that sizes the KV cache, for which the model
# is compiled; the cache itself and the CUDA graphs.
_PARTS: tuple[tuple[type, str, str], ...] = (
    (WorkerWrapperBase, "init_device", "device"),
    *(
        (executor, method, name)
        for executor in (ExecutorWithExternalLauncher, MultiprocExecutor)
        for method, name in {
            "_init_executor": "weights", "determine_available_memory": "profile", "initialize_from_config": "capture",
        }.items()
    ),
)  # fmt: skip


@contextmanager
def timed(timings: dict[str, float]) -> Iterator[None]:
    """Put the seconds of each part of a start into ``timings``."""
    with ExitStack() as stack:
        for owner, method, name in _PARTS:
            stack.enter_context(replaced(owner, method, _timing(getattr(owner, method), name, timings)))
        yield
    if "weights" in timings:
        timings["weights"] = round(timings["weights"] - timings.get("device", 0.0), 3)


def _timing(method: Callable[..., Any], name: str, timings: dict[str, float]) -> Callable[..., Any]:
    @wraps(method)
    def timing(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            timings[name] = round(time.perf_counter() - began, 3)

    return timing
