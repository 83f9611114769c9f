"""What vLLM's scheduler has in flight. None of these names is needed: without one of them, that is not known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vllm_hpc.engine.interface import InFlight

if TYPE_CHECKING:
    from vllm import LLMEngine


def look(engine: LLMEngine) -> InFlight | None:
    """The sequences in flight, between two steps; None if the scheduler is not in this process."""
    core = getattr(getattr(engine, "engine_core", None), "engine_core", None)
    scheduler: Any = getattr(core, "scheduler", None)
    try:
        lengths = [request.num_output_tokens for request in scheduler.requests.values()]
        running = len(scheduler.running)
    except (AttributeError, TypeError):
        return None
    return InFlight(running, max(0, len(lengths) - running), [one for one in lengths if one], _kv(scheduler))


def _kv(scheduler: Any) -> float | None:
    usage = getattr(getattr(scheduler, "kv_cache_manager", None), "usage", None)
    return float(usage) if isinstance(usage, (int, float)) else None
