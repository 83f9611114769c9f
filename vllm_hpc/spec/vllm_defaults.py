"""vLLM's own defaults and limits that both the planner and the ranks rely on, and how vLLM reads a number."""

from __future__ import annotations

from typing import Any

# vLLM's argument that spreads experts over the ranks, instead of cutting each.
EXPERT_PARALLEL = "enable_expert_parallel"
# Which of its two model runners vLLM uses (envs.py): 1 for the newer one, 0 for the older one.
MODEL_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
# GiB. vLLM's own default on the CPU is a share of all memory, and it fails if that much is not free.
CPU_KV_CACHE_GIB = 1
# vLLM captures CUDA graphs for up to this many sequences (config/vllm.py, max_cudagraph_capture_size; 0.32 up to 1024
# on Blackwell). Larger decode steps are launched kernel by kernel: on 4 H100, TP=4, 512 instead of the default 1024
# gave 1.8 times the tokens/s.
LARGEST_GRAPH = 512
# If more sequences than that run on a large GPU, graphs are captured for all of them, up to MOST_CAPTURED: above
# LARGEST_GRAPH in wider steps, since each graph is 0.1 to 0.5 s of the start (docs/performance.md), and only where a
# job begins and ends do so many, but not all, run. Between two sizes a step is padded by a fifth at most.
MOST_CAPTURED = 2048
_GRAPH_STEP, _LARGE_GRAPH_STEP = 16, 128
# GiB from which vLLM treats a GPU as large (engine/arg_utils.py, get_batch_defaults).
LARGE_GPU_GIB = 70


def is_large_gpu(name: str, memory_gib: float) -> bool:
    """Whether vLLM uses its larger defaults on this GPU: never on an A100, whatever its memory."""
    return memory_gib >= LARGE_GPU_GIB and "a100" not in name.lower()


def graph_sizes(sequences: int) -> list[int]:
    """The numbers of sequences to capture CUDA graphs for: vLLM's own up to LARGEST_GRAPH, then as explained above.

    The last one holds ``sequences``, if MOST_CAPTURED allows.
    """
    most = min(-(-sequences // _GRAPH_STEP) * _GRAPH_STEP, MOST_CAPTURED)
    own = [1, 2, 4, *range(8, 256, 8), *range(256, LARGEST_GRAPH + 1, _GRAPH_STEP)]
    wider = range(LARGEST_GRAPH + _LARGE_GRAPH_STEP, most, _LARGE_GRAPH_STEP)
    return [*own, *wider, most] if most > LARGEST_GRAPH else own


def whole(value: Any, default: int) -> int:
    """The value as a whole number above 0, from a string too, as in vLLM; else the default."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and value > 0 else default


def names_graphs(engine: dict[str, Any]) -> bool:
    """Whether engine arguments decide which CUDA graphs to capture, or might (a config that is not an object)."""
    graphs = engine.get("compilation_config", {})
    if not isinstance(graphs, dict) or engine.get("enforce_eager"):
        return True
    names = {"max_cudagraph_capture_size", "cudagraph_capture_sizes", "cudagraph_mode", "optimization_level", "mode"}
    return not names.isdisjoint({*engine, *graphs})
