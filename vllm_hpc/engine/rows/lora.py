"""LoRA: the engine's arguments for the job's adapters, and the adapter of a row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

from vllm_hpc.engine.rows.checks import adapter_of
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    from vllm import LLMEngine
    from vllm.lora.request import LoRARequest

# Adapters that one step may mix: each takes memory on every GPU.
_MOST_AT_ONCE = 8


def lora_arguments(record: JobRecord) -> dict[str, Any]:
    """Arguments of vLLM's engine for the job's adapters; none without any."""
    if not record.adapters:
        return {}
    from vllm.config.lora import MaxLoRARanks
    from vllm.platforms import current_platform

    rank = max(adapter.rank for adapter in record.adapters)
    at_once = len(record.adapters)
    # On the CPU vLLM 0.32 uses the last slot for a row without an adapter (torch_ops index with -1). With one slot more
    # than adapters, that slot stays empty.
    return {
        "enable_lora": True,
        "max_lora_rank": min((size for size in get_args(MaxLoRARanks) if size >= rank), default=rank),
        "max_loras": at_once + 1 if current_platform.is_cpu() else min(at_once, _MOST_AT_ONCE),
    }


class AdapterChoice:
    """Chooses the adapter of a row."""

    def __init__(self, record: JobRecord) -> None:
        self._adapters: dict[str, LoRARequest] = {}
        if record.adapters:
            from vllm.lora.request import LoRARequest

            for number, adapter in enumerate(record.adapters, start=1):
                self._adapters[adapter.name] = LoRARequest(adapter.name, number, adapter.path)

    def load(self, engine: LLMEngine) -> None:
        """Load every adapter now: one that does not fit the model ends the job here, not in the middle of its rows."""
        for adapter in self._adapters.values():
            engine.add_lora(adapter)

    def __call__(self, row: Row) -> LoRARequest | None:
        """The adapter of a row, None for the base model. Raises ValueError for a name that the job does not have."""
        name = adapter_of(row, list(self._adapters))
        return None if name is None else self._adapters[name]
