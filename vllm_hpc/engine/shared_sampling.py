"""Sampling shared out among the ranks of a TP group: each samples a part of the rows, and all get all tokens.

vLLM gives every rank the logits of all rows over the whole vocabulary, and each samples all of them: passes over
512 x 128,256 numbers, and as many random ones, TP times over. Its sampler (vllm/v1/worker/gpu/sample/sampler.py) draws
a row's noise by the row's own seed and position, so that a row's token does not depend on the rows beside it: what
comes out is, token by token, what every rank would have sampled by itself.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm import LLMEngine, __version__

# The versions whose sampler was read line by line beside this; elsewhere every rank samples for itself.
_VERSIONS = ("0.26.", "0.32.")
# Fewer rows a rank are not worth the exchange of their tokens; and below 8 vLLM 0.26 takes another kernel.
_LEAST = 16


class SharedSampling:
    """The ``sample`` of one rank's sampler. ``group``: its TP group. With ``is_on`` false it samples all by itself."""

    def __init__(self, sampler: Any, group: Any) -> None:
        self._states, self._sample, self._group = sampler.sampling_states, sampler.sample, group
        # Its kernel draws by a row's place in the batch.
        self._has_flashinfer: bool = sampler.use_flashinfer
        self.is_on = True

    def sample(self, logits: torch.Tensor, *by_row: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """vLLM's ``Sampler.sample``: a token for each row of ``logits`` (rows x vocabulary), and the logits it used.

        Those are of the rank's own part where the rows are shared out; nobody asks for them then.
        """
        rows = len(logits)
        if not self._is_shared(rows, by_row, **named):
            return self._sample(logits, *by_row, **named)  # type: ignore[no-any-return]
        ranks, rank = self._group.world_size, self._group.rank_in_group
        size = -(-rows // ranks)
        # All parts are of one size, as an all-gather wants it: the last one goes back into the part before.
        part = slice(min(rank * size, rows - size), min(rank * size, rows - size) + size)
        tokens, used = self._sample(logits[part], *(one[part] for one in by_row), **named)
        every = self._group.all_gather(tokens, dim=0)
        before_last = (ranks - 1) * size
        if rows < len(every):
            every = torch.cat([every[:before_last], every[len(every) - (rows - before_last) :]])
        return every, used

    def _is_shared(self, rows: int, by_row: tuple[Any, ...], return_logprobs: bool = False, **others: Any) -> bool:
        ranks = self._group.world_size
        if not self.is_on or return_logprobs or others or rows < ranks * max(_LEAST, ranks):
            return False
        if any(len(one) != rows for one in by_row):  # several logits of a row, for speculation
            return False
        return not (self._has_flashinfer and self._has_top())

    def _has_top(self) -> bool:
        """Whether a row may ask for top-k or top-p, of all that the sampler knows."""
        return bool((self._states.top_p.np != 1.0).any() or (self._states.top_k.np != self._states.vocab_size).any())


def share_sampling(engine: LLMEngine) -> SharedSampling | None:
    """Let the ranks of this engine's TP group share out the rows to sample; None where they cannot. Again: the same."""
    from vllm.distributed.parallel_state import get_tp_group
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    try:
        executor: Any = engine.engine_core.engine_core.model_executor
        sampler = executor.driver_worker.worker.model_runner.sampler
        group = get_tp_group()
        own = getattr(sampler.sample, "__self__", None)
        if isinstance(own, SharedSampling):
            return own
        if not _is_known(sampler, Sampler) or group.world_size == 1:
            return None
        shared = SharedSampling(sampler, group)
    except (AttributeError, AssertionError):  # another version of vLLM; workers in processes of their own
        return None
    sampler.sample = shared.sample
    return shared


def _is_known(sampler: Any, known: type) -> bool:
    if not __version__.startswith(_VERSIONS) or type(sampler) is not known:
        return False
    return not any(getattr(sampler, name, False) for name in ("return_sampling_mask", "use_xpu_sampler"))
