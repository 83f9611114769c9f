"""Every token that an engine samples, step by step, also of rows that have not finished. Only --verify asks for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLMEngine


def watch(engine: LLMEngine, told: Callable[[str, Sequence[int]], None]) -> None:
    """Tell ``told`` of each request's new tokens, by vLLM's id of the request, as the engine takes them in a step."""
    client: Any = engine.engine_core
    get_output = client.get_output

    def telling() -> Any:
        outputs = get_output()
        for one in outputs.outputs:
            told(one.request_id, one.new_token_ids)
        return outputs

    client.get_output = telling
