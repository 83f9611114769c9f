"""Spares vLLM's scheduler what a batch does not need.

In every step the scheduler asks the KV cache for room for each running sequence, and 15 times of 16 its last block has
some left. The question costs 6 microseconds through four layers of Python: with 512 sequences, 3 of the 20 ms that the
CPU needs for a step, while the GPU of a small model waits (docs/performance.md).

And it hashes every block of generated tokens for the prefix cache, 7 % of a step, for a conversation's next turn. No
row of a batch begins with another row's answer: blocks of prompts are hashed and found again, those of answers are not.
"""

from __future__ import annotations

from typing import Any

from vllm import LLMEngine
from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager


class Slots:
    """The KV cache's slots of the running sequences, for one group of full attention, where nothing is looked ahead."""

    def __init__(self, manager: Any) -> None:
        """Of a KVCacheManager of vLLM. Raises AttributeError or ValueError where it is not of that kind."""
        (self._group,) = manager.coordinator.single_type_managers
        if type(self._group) is not FullAttentionManager:
            raise ValueError("not plain attention")
        self._size: int = self._group.block_size
        if self._size != manager.block_pool.hash_block_size:
            raise ValueError("blocks are cached in parts")
        self._blocks: dict[str, list[Any]] = self._group.req_to_blocks
        self._cached: dict[str, int] = self._group.num_cached_block
        self._partial: dict[str, Any] = self._group._partial_hit_reqs
        self._is_caching: bool = manager.enable_caching

    def are_free(self, request: Any, new_tokens: int) -> bool:
        """Whether a running request's blocks take so many more tokens, and none of them is to be cached."""
        ident = request.request_id
        blocks = self._blocks.get(ident)
        if not blocks or ident in self._partial:
            return False
        tokens = request.num_computed_tokens + new_tokens
        if tokens > len(blocks) * self._size:
            return False
        return self.are_cached(request, min(tokens, request.num_tokens))

    def are_cached(self, request: Any, tokens: int) -> bool:
        """Whether the prefix cache knows all blocks of the prompt that these tokens fill, or there is none."""
        if not self._is_caching:
            return True
        prompt: int = min(tokens, request.num_prompt_tokens)
        return prompt // self._size <= self._cached.get(request.request_id, 0)


def spare_scheduler(engine: LLMEngine) -> bool:
    """Let the scheduler of this engine do only what a batch needs; False where it is not of a kind that is known."""
    try:
        core: Any = engine.engine_core.engine_core
        manager = core.scheduler.kv_cache_manager
        slots = Slots(manager)
        if core.scheduler.connector is not None:
            return False
        hash_prompts_only(core)
        _ask_where_needed(manager, slots)
    except (AttributeError, ValueError):  # another version of vLLM, or another kind of model
        return False
    return True


def hash_prompts_only(core: Any) -> None:
    """Keep what is generated out of the prefix cache of an EngineCore of vLLM. Raises AttributeError."""
    hasher, coordinator = core.request_block_hasher, core.scheduler.kv_cache_manager.coordinator
    cache = coordinator.cache_blocks
    if hasher is None:  # there is no prefix cache
        return

    def hash_once(request: Any) -> list[Any]:
        request._block_hasher = None  # it is asked when the request is made, and for every token afterwards
        hashes: list[Any] = hasher(request)
        return hashes

    def cache_blocks(request: Any, num_computed_tokens: int) -> None:
        cache(request, min(num_computed_tokens, request.num_prompt_tokens))

    core.request_block_hasher, coordinator.cache_blocks = hash_once, cache_blocks


def _ask_where_needed(manager: Any, slots: Slots) -> None:
    allocate, cache, nothing = manager.allocate_slots, manager.cache_blocks, manager.empty_kv_cache_blocks

    def allocate_slots(
        request: Any, num_new_tokens: int, *others: Any, num_lookahead_tokens: int = 0, **named: Any
    ) -> Any:
        if not (others or num_lookahead_tokens or named) and slots.are_free(request, num_new_tokens):
            return nothing
        return allocate(request, num_new_tokens, *others, num_lookahead_tokens=num_lookahead_tokens, **named)

    def cache_blocks(request: Any, num_computed_tokens: int) -> None:
        if not slots.are_cached(request, num_computed_tokens):
            cache(request, num_computed_tokens)

    manager.allocate_slots, manager.cache_blocks = allocate_slots, cache_blocks
