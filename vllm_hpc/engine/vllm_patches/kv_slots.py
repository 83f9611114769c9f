"""The KV cache slots of vLLM's running sequences: which can take one more token without any other change."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vllm.v1.core.single_type_kv_cache_manager import FullAttentionManager


class Slots:
    """The slots of one group of full attention, without lookahead; ``size``: tokens of a block."""

    def __init__(self, manager: Any) -> None:
        """``manager`` is vLLM's KVCacheManager. Raises AttributeError or ValueError if it is of another kind."""
        (group,) = manager.coordinator.single_type_managers
        if type(group) is not FullAttentionManager:
            raise ValueError("the model's KV cache is not that of full attention")
        self.size: int = group.block_size
        if self.size != manager.block_pool.hash_block_size:
            raise ValueError("KV cache blocks are cached in parts")
        self._blocks: dict[str, list[Any]] = group.req_to_blocks
        self._cached: dict[str, int] = group.num_cached_block
        self._partial: dict[str, Any] = group._partial_hit_reqs
        self._pool, self._is_caching = manager.block_pool, bool(manager.enable_caching)

    def are_free(self, request: Any, computed: int, tokens: int) -> bool:
        """Whether its blocks have room for ``computed`` tokens, and all full blocks of the ``tokens`` are cached.

        Then vLLM's KVCacheManager.allocate_slots would do nothing.
        """
        ident = request.request_id
        blocks = self._blocks.get(ident)
        if not blocks or computed > len(blocks) * self.size or ident in self._partial:
            return False
        return self.are_cached(ident, min(computed, tokens))

    def are_cached(self, ident: str, tokens: int) -> bool:
        """Whether the prefix cache has all blocks that these tokens fill, or there is no prefix cache."""
        return not self._is_caching or tokens // self.size <= self._cached.get(ident, 0)

    def have_room_for(self, requests: Iterable[Any]) -> bool:
        """Whether there are blocks for all that a step can take of these, so that vLLM preempts none of them."""
        needed = sum(
            (request.num_tokens + request.num_output_placeholders - request.num_computed_tokens) // self.size + 2
            for request in requests
        )
        return bool(needed <= self._pool.get_num_free_blocks())
