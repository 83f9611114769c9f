"""Plan: what was computed from a Request. Plain values, no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from vllm_hpc.spec.layout import Layout

# Output tokens a row where nobody says: vLLM's own default of 16 is a surprise in a batch.
DEFAULT_MAX_TOKENS = 256
# GiB. vLLM's own default on the CPU is a share of all memory, and it refuses where that is not free.
CPU_KV_CACHE_GIB = 1
# vLLM captures CUDA graphs for up to so many sequences (config/vllm.py, max_cudagraph_capture_size; 0.32 for 1024 on
# Blackwell). Above, decode steps are launched kernel by kernel: on 4 H100, TP=4, 512 instead of the default 1024 gave
# 1.8 times the tokens/s.
LARGEST_GRAPH = 512
# Where more sequences than that are to run on a large GPU, graphs are captured for as many, up to this: 83 graphs
# instead of 51, in steps of 16 sequences.
MOST_CAPTURED = 1024
GRAPH_STEP = 16
# GiB from which vLLM takes a GPU for a large one (engine/arg_utils.py, get_batch_defaults).
LARGE_GPU_GIB = 70


def is_large_gpu(name: str, memory_gib: float) -> bool:
    """Whether vLLM gives a GPU of that name its larger defaults: not the A100, whatever its memory."""
    return memory_gib >= LARGE_GPU_GIB and "a100" not in name.lower()


def whole(value: Any, default: int) -> int:
    """A whole number above 0, also one that was given as text, as vLLM takes it; else the default."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    return value if type(value) is int and value > 0 else default


def names_graphs(engine: dict[str, Any]) -> bool:
    """Whether engine arguments say which CUDA graphs to capture, or none; or may: a configuration that is no object."""
    graphs = engine.get("compilation_config", {})
    if not isinstance(graphs, dict) or engine.get("enforce_eager"):
        return True
    names = {"max_cudagraph_capture_size", "cudagraph_capture_sizes", "cudagraph_mode", "optimization_level", "mode"}
    return not names.isdisjoint({*engine, *graphs})


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Memory of the plan in GiB; None where it is not known.

    ``weights_gib`` is the whole model; of the fullest GPU, ``per_gpu_gib`` is what weights and reserve take,
    ``kv_gib_per_gpu`` what is left for the KV cache, and ``gpu_gib`` all it has. (On the CPU: of a rank.)
    """

    weights_gib: float | None = None
    kv_gib_per_gpu: float | None = None
    per_gpu_gib: float | None = None
    gpu_gib: float | None = None


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the planner knows of a model; ``parameters`` None where it has a part that cannot be counted."""

    architecture: str
    parameters: int | None
    layers: int
    heads: int
    kv_heads: int
    dtype: str
    quantization: str | None
    kv_bytes_per_token: int
    max_positions: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """GPU-hours for an input, between two bounds, and what the estimate stands on; tokens of prompts and outputs."""

    gpu_hours_low: float
    gpu_hours_high: float
    prompt_tokens: int
    output_tokens: int
    basis: str


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What was computed from a Request: the layout, vLLM's arguments, and the reasons for them."""

    layout: Layout
    engine: dict[str, Any]
    fits: bool | None = None
    misfit: str | None = None  # why it does not fit, and what would
    reasons: tuple[str, ...] = ()
    memory: Memory = Memory()
    kv_tokens: int | None = None
    concurrency: float | None = None
    runners_up: tuple[str, ...] = ()
    model: ModelFacts | None = None
    cost: Cost | None = None

    @property
    def is_native(self) -> bool:
        """Whether vLLM starts workers of its own (--launcher native), not torchrun a rank for each GPU."""
        return self.engine.get("distributed_executor_backend") == "mp"

    def to_json(self) -> dict[str, Any]:
        """The object that ``plan --json`` prints."""
        return {
            **{key: getattr(self.layout, key) for key in self.layout.__struct_fields__ if key != "is_array"},
            "world_size": self.layout.world_size,
            "fits": self.fits,
            "reasons": [*self.reasons, *([self.misfit] if self.misfit else ())],
            "memory": msgspec.to_builtins(self.memory),
            "engine": self.engine,
            "kv_tokens": self.kv_tokens,
            "concurrency": self.concurrency,
            "runners_up": list(self.runners_up),
            "model": msgspec.to_builtins(self.model),
            "cost": msgspec.to_builtins(self.cost),
        }
