"""vLLM's own defaults and limits that both the planner and the ranks rely on, and how vLLM reads a number."""

from __future__ import annotations

from typing import Any

# GiB. vLLM's own default on the CPU is a share of all memory, and it fails if that much is not free.
CPU_KV_CACHE_GIB = 1
# vLLM captures CUDA graphs for up to this many sequences (config/vllm.py, max_cudagraph_capture_size; 0.32 up to 1024
# on Blackwell). Larger decode steps are launched kernel by kernel: on 4 H100, TP=4, 512 instead of the default 1024
# gave 1.8 times the tokens/s.
LARGEST_GRAPH = 512
# If more sequences than that run on a large GPU, graphs are captured for all of them, up to this limit: 83 graphs
# instead of 51, in steps of 16 sequences.
MOST_CAPTURED = 1024
GRAPH_STEP = 16
# GiB from which vLLM treats a GPU as large (engine/arg_utils.py, get_batch_defaults).
LARGE_GPU_GIB = 70


def is_large_gpu(name: str, memory_gib: float) -> bool:
    """Whether vLLM uses its larger defaults on this GPU: never on an A100, whatever its memory."""
    return memory_gib >= LARGE_GPU_GIB and "a100" not in name.lower()


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
