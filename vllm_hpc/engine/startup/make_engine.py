"""The vLLM engine of a rank: its arguments, from the plan and from the device."""

from __future__ import annotations

import os
from typing import Any

from vllm import LLM, EngineArgs, LLMEngine
from vllm.usage.usage_lib import UsageContext

from vllm_hpc.engine.rows.lora import lora_arguments
from vllm_hpc.engine.rows.structured_output import give_time_to_compile
from vllm_hpc.engine.startup import reproducible
from vllm_hpc.engine.vllm_patches import Patches, is_on
from vllm_hpc.engine.vllm_patches.lookup import installed_version
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.layout import Layout
from vllm_hpc.spec.server_arguments import engine_only
from vllm_hpc.spec.vllm_defaults import (
    EXPERT_PARALLEL,
    LARGE_GPU_GIB,
    LARGEST_GRAPH,
    MODEL_RUNNER,
    graph_sizes,
    is_large_gpu,
    names_graphs,
    whole,
)

# vllm.config.compilation.CompilationMode.DYNAMO_TRACE_ONCE, and no inductor.
_STAGES_ON_CPU = {"mode": 2, "backend": "eager"}


def make_engine(record: JobRecord, timings: dict[str, float], patches: Patches, **workers: Any) -> LLMEngine:
    """Build the vLLM engine of this rank; it loads the model. Raises what vLLM raises.

    ``timings`` gets the seconds of its parts: device, weights, profile, of which compile (what torch.compile took, or
    what it took to read it from the cache), and capture. ``patches`` notes which patches are on. ``workers``: further
    engine arguments, for where the workers run.
    """
    has_lanes = record.plan.layout.attention_dp > 1
    if has_lanes:
        use_runner_for_lanes()
    with patches.starting(timings, record.plan.is_native):
        # Like LLM(): in another usage context an engine starts with 128 sequences and 2048 tokens per step.
        engine = LLMEngine.from_engine_args(engine_arguments(record, **workers), usage_context=UsageContext.LLM_CLASS)
    _note_started(engine, timings, patches)
    if has_lanes and engine.vllm_config.use_v2_model_runner and "idle-forward" not in patches.on:
        raise RuntimeError(f"lanes would wait for each other: run the job with --env {MODEL_RUNNER}=0")
    return engine


def use_runner_for_lanes() -> None:
    """Have vLLM run lanes with its older model runner, if its newer one cannot be patched and they would hang in it.

    Raises RequestError if the environment asks for the newer one.
    """
    if is_on("idle-forward"):
        return
    if os.environ.setdefault(MODEL_RUNNER, "0").strip().lower() not in ("0", "false", "no", "off"):
        raise RequestError(
            f"{MODEL_RUNNER}={os.environ[MODEL_RUNNER]} does not go with --attention-dp and this vLLM, "
            f"{installed_version()}, whose newer model runner lets lanes wait for each other: leave it out"
        )
    print("vllm-hpc: lanes run with vLLM's older model runner, since idle-forward is off", flush=True)


def make_llm(record: JobRecord, timings: dict[str, float], patches: Patches) -> LLM:
    """The same engine in an LLM, for a program of the user's. Raises what vLLM raises."""
    _check_hooks(record)
    arguments = vars(engine_arguments(record))  # as LLM.from_engine_args
    template = record.request.chat_template if record.program and record.program.drives_engine else None
    with patches.starting(timings, is_native=False):
        llm = LLM(**arguments, chat_template=template)
    _note_started(llm.llm_engine, timings, patches)
    return llm


def _check_hooks(record: JobRecord) -> None:
    """Refuse hooks where they would never be called. Raises RequestError."""
    from vllm.platforms import current_platform

    program = record.program
    if program and program.needs_hooks and current_platform.is_cpu() and record.plan.layout.pp > 1:
        raise RequestError(
            f"--program {program.name} needs hooks, which vLLM's CPU back-end cannot call with --pp: leave --pp out"
        )


def _note_started(engine: LLMEngine, timings: dict[str, float], patches: Patches) -> None:
    """Turn on the patches for an engine that has started, and note what compiling took."""
    patches.apply(engine)
    compilation: float | None = getattr(engine.vllm_config.compilation_config, "compilation_time", None)
    if compilation is not None:
        timings["compile"] = round(compilation, 3)


def engine_arguments(record: JobRecord, **workers: Any) -> EngineArgs:
    """vLLM's engine arguments."""
    from vllm.platforms import current_platform

    give_time_to_compile()
    layout = record.plan.layout
    arguments = {
        "model": record.model,
        "tensor_parallel_size": layout.tp,
        "pipeline_parallel_size": layout.pp,
        "data_parallel_size": layout.attention_dp,
        "distributed_executor_backend": "external_launcher",
        "seed": record.request.seed,
        "disable_log_stats": True,
        **_device_defaults(layout, record.plan.engine),
        **lora_arguments(record),
        **engine_only(record.plan.engine),
        **workers,
    }
    if current_platform.is_cpu() and arguments.get(EXPERT_PARALLEL):
        arguments[EXPERT_PARALLEL] = _on_cpu(record)
    if record.request.reproducible and current_platform.is_cuda():
        model = EngineArgs(**arguments).create_model_config()
        arguments |= reproducible.arguments(arguments, has_mla=model.use_mla)
    return EngineArgs(**arguments)


def _on_cpu(record: JobRecord) -> bool:
    """False, where the plan did not know that it is for the CPU. Raises RequestError if the job asks for it."""
    if record.request.engine.get(EXPERT_PARALLEL):
        raise RequestError(
            f"vLLM's CPU back-end has no expert parallelism: leave --engine {EXPERT_PARALLEL} out, or use GPUs"
        )
    print("vllm-hpc: the CPU has no expert parallelism: experts are split over the ranks", flush=True)
    return False


def _device_defaults(layout: Layout, given: dict[str, Any]) -> dict[str, Any]:
    """Engine arguments that follow from the device, if the job does not set them.

    On the CPU: eager, which starts in seconds and needs no compiler; with pipeline parallelism the graph is traced once
    and run as it is (vLLM's CPU back-end makes the intermediate tensors that its stages exchange in the warm-up of the
    graph, and compiling that graph takes up to half of the start). On GPUs
    with TP: no fused all-reduce, which needs NVLink multicast; shared hosts keep that off, and then ranks died of
    illegal addresses (two H100, vLLM 0.26). On large GPUs: no more sequences than the largest CUDA graph, even if the
    plan did not know the GPU and so could not set this; if the job sets more, larger graphs.
    """
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        if layout.pp > 1 and given.get("enforce_eager"):
            raise RequestError("vLLM's CPU back-end cannot run --engine enforce_eager with --pp: leave it out")
        return {"compilation_config": dict(_STAGES_ON_CPU)} if layout.pp > 1 else {"enforce_eager": True}
    found: dict[str, Any] = {}
    if layout.tp > 1:
        found["compilation_config"] = {"pass_config": {"fuse_allreduce_rms": False}}
    name, gib = current_platform.get_device_name(), current_platform.get_device_total_memory() / 2**30
    if is_large_gpu(name, gib) and "max_num_seqs" not in given and "max_num_batched_tokens" not in given:
        found["max_num_seqs"] = LARGEST_GRAPH
    sequences = whole(given.get("max_num_seqs"), 0)  # vLLM reports whatever else is wrong with it
    if gib >= LARGE_GPU_GIB and sequences > LARGEST_GRAPH and not names_graphs(given):
        found["cudagraph_capture_sizes"] = graph_sizes(sequences)
    return found
