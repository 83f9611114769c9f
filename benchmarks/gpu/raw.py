"""vLLM by itself, with nothing of vllm-hpc in it: what people run today.

``mp``: one process that starts a worker for each GPU. ``seed``: this project's first recipe, LLM() under torchrun with
``external_launcher``, the same prompts on every rank. ``independent``: an engine for each GPU, which knows of no other,
over its part of the prompts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import Case, Started
from benchmarks.one_engine import SECRET, Barrier, Run, digest_of, wait_for_turn
from vllm_hpc.engine.startup import devices, replicas
from vllm_hpc.engine.vllm_engine import meet_started
from vllm_hpc.engine.vllm_patches import Patches
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout

# What torchrun sets: an independent engine is a world of its own. vLLM 0.26 would wait for the agent's store.
_WORLD = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_")


def start_raw(case: Case, model: Path) -> Started:
    """Start this process's engine, as its user would."""
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else it wants a NUMA node for each, on the CPU
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    way, rank, world = case.ways[0], int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    os.environ["VLLM_HPC_RANK"] = str(rank)
    barrier = Barrier(replicas.meet(SECRET, rank, world).store if world > 1 else None, world)
    if way == "independent":
        layout = Layout(nodes=1, gpus_per_node=world, procs_per_node=world, tp=1, pp=1, dp=world)
        devices.show_only_own(layout, rank, rank)
        for name in [name for name in os.environ if name.startswith(_WORLD)]:
            del os.environ[name]
    began = time.perf_counter()
    from vllm import LLM, SamplingParams
    from vllm.platforms import current_platform

    # As vllm-hpc's engine on the CPU, which compiles for PP only: settings are to be equal.
    more = {"enforce_eager": True} if current_platform.is_cpu() and case.pp == 1 else {}
    segments = f"benchmark-{os.getppid()}" if current_platform.is_cpu() and way == "seed" else None
    if segments:  # vLLM's own names are those of every run on this machine, and stay behind: one would end the next
        Patches().name_shared_memory(segments)
    imports = time.perf_counter() - began
    began = wait_for_turn()
    backend = {"mp": "mp" if case.gpus > 1 else None, "seed": "external_launcher", "independent": None}[way]
    llm = LLM(
        model=str(model), tensor_parallel_size=case.tp, pipeline_parallel_size=case.pp, disable_log_stats=True,
        distributed_executor_backend=backend, **{**more, **case.engine},
    )  # fmt: skip
    if segments:
        meet_started(segments)
    start_up = {"import": imports, "load": time.perf_counter() - began}

    def run(rows: list[Row]) -> Run:
        mine = rows[rank::world] if way == "independent" else rows
        params = [SamplingParams(**{**case.sampling, **row["sampling"]}) for row in mine]
        llm.reset_prefix_cache()
        barrier.wait()
        began, cpu = time.perf_counter(), time.process_time()
        prompts: Any = [{"prompt_token_ids": row["prompt"]} for row in mine]
        outputs = llm.generate(prompts, params, use_tqdm=False) if mine else []
        used = time.process_time() - cpu
        barrier.wait()
        seconds = time.perf_counter() - began
        tokens = {index: list(one.outputs[0].token_ids) for index, one in enumerate(outputs)}
        return Run(seconds, used, sum(map(len, tokens.values())), {}, digest_of(tokens))

    return start_up, {way: run}, llm
