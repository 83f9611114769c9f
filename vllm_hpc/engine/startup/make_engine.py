"""The vLLM engine of a rank: its arguments out of the plan, and what the device asks for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any
from unittest import mock

from vllm import EngineArgs, LLMEngine
from vllm.model_executor.models import registry
from vllm.usage.usage_lib import UsageContext
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import ExecutorWithExternalLauncher
from vllm.v1.worker.worker_base import WorkerWrapperBase

from vllm_hpc.engine.rows.lora import lora_arguments
from vllm_hpc.engine.rows.structured_output import give_time_to_compile
from vllm_hpc.engine.vllm_patches.fast_schedule import take_short_way
from vllm_hpc.engine.vllm_patches.sharded_sampling import share_sampling
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.vllm_defaults import (
    GRAPH_STEP,
    LARGE_GPU_GIB,
    LARGEST_GRAPH,
    MOST_CAPTURED,
    is_large_gpu,
    names_graphs,
    whole,
)

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


def make_engine(record: JobRecord, timings: dict[str, float], **workers: Any) -> LLMEngine:
    """Build the vLLM engine of this rank; it loads the model. Raises what vLLM raises.

    ``timings`` gets the seconds of its parts: device, weights, profile, of which compile (what torch.compile took, or
    what it took to read it from the cache), and capture. ``workers``: further engine arguments, of where they run.
    """
    with _timed(timings), nullcontext() if record.plan.is_native else _inspecting_here():
        # As LLM() does: an engine of its own context starts with 128 sequences and 2048 tokens a step.
        engine = LLMEngine.from_engine_args(engine_arguments(record, **workers), usage_context=UsageContext.LLM_CLASS)
    if timings.get("weights"):
        timings["weights"] = round(timings["weights"] - timings.get("device", 0.0), 3)
    take_short_way(engine)
    share_sampling(engine)
    timings["compile"] = round(engine.vllm_config.compilation_config.compilation_time, 3)
    return engine


@contextmanager
def _inspecting_here() -> Iterator[None]:
    """Let vLLM look at a model's class in this process, which has CUDA in use by then.

    It would import itself anew in another one, the first time of a model, to keep CUDA out of this one: 10 to 20 s.
    """
    with mock.patch.object(registry, "_run_in_subprocess", lambda look: look(), create=True):
        yield


@contextmanager
def _timed(timings: dict[str, float]) -> Iterator[None]:
    with ExitStack() as patches:
        for owner, method, name in _PARTS:
            patches.enter_context(mock.patch.object(owner, method, _timing(getattr(owner, method), name, timings)))
        yield


def _timing(method: Callable[..., Any], name: str, timings: dict[str, float]) -> Callable[..., Any]:
    @wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return method(*args, **kwargs)
        finally:
            timings[name] = round(time.perf_counter() - began, 3)

    return timed


def engine_arguments(record: JobRecord, **workers: Any) -> EngineArgs:
    """What vLLM is started with."""
    give_time_to_compile()
    layout = record.plan.layout
    arguments = {
        "model": record.model,
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "distributed_executor_backend": "external_launcher",
        "seed": record.request.seed,
        "disable_log_stats": True,
        **_device_defaults(layout, record.plan.engine),
        **lora_arguments(record),
        **record.plan.engine,
        **workers,
    }
    return EngineArgs(**arguments)


def _device_defaults(layout: Layout, given: dict[str, Any]) -> dict[str, Any]:
    """Engine arguments that follow from the device, where the job names none.

    On the CPU: eager, which starts in seconds and needs no compiler; but pipeline parallelism there needs the graph
    (vLLM's CPU back-end makes the intermediate tensors that its stages exchange in the compiling warm-up). On GPUs
    with TP: without the fused all-reduce, which needs NVLink multicast; shared hosts keep that off, and with it off
    ranks died of illegal addresses (two H100, vLLM 0.26). On large GPUs: no more sequences than the largest CUDA
    graph, also where nobody said which GPU it is, so that the plan could not; where the job has more, larger graphs.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        if layout.pp > 1 and given.get("enforce_eager"):
            raise RequestError("--engine enforce_eager with --pp does not run in vLLM's CPU back-end: leave it out")
        return {"enforce_eager": layout.pp == 1}
    found: dict[str, Any] = {}
    if layout.tp > 1:
        found["compilation_config"] = {"pass_config": {"fuse_allreduce_rms": False}}
    name, gib = current_platform.get_device_name(), current_platform.get_device_total_memory() / 2**30
    if is_large_gpu(name, gib) and "max_num_seqs" not in given and "max_num_batched_tokens" not in given:
        found["max_num_seqs"] = LARGEST_GRAPH
    sequences = whole(given.get("max_num_seqs"), 0)  # vLLM says what else is wrong with it
    if gib >= LARGE_GPU_GIB and sequences > LARGEST_GRAPH and not names_graphs(given):
        found["max_cudagraph_capture_size"] = min(-(-sequences // GRAPH_STEP) * GRAPH_STEP, MOST_CAPTURED)
    return found
