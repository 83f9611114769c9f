"""Sampling divided among the ranks of a TP group: each samples a part of the rows, and all get all tokens.

vLLM 0.26 gives every rank the logits of all rows over the whole vocabulary, and each samples all of them: passes over
512 x 128,256 numbers, and as many random ones, repeated TP times. Its sampler (vllm/v1/worker/gpu/sample/sampler.py)
draws a row's noise from the row's own seed and position, so a row's token does not depend on other rows: the tokens are
those that every rank would have sampled by itself. Later versions can do this themselves, off by default (0.32:
``enable_batch_sharded_sampling``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm import LLMEngine, __version__

from vllm_hpc.engine.vllm_patches.table import PATCHES

# With fewer rows per rank, exchanging their tokens is not worth it; below 8 rows another kernel computes the top-p.
_LEAST = 16
# Every rank samples one in this many batches whole, so that digests reveal ranks whose logits differ.
_WHOLE_EVERY = 32


class SharedSampling:
    """The ``sample`` of one rank's sampler. ``group``: its TP group. With ``is_on`` false, it samples all rows."""

    def __init__(self, sampler: Any, group: Any) -> None:
        self._states, self._sample, self._group = sampler.sampling_states, sampler.sample, group
        # Its kernel draws by a row's place in the batch.
        self._has_flashinfer: bool = sampler.use_flashinfer
        self._batches = 0
        self.is_on = True

    def sample(self, logits: torch.Tensor, *by_row: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """vLLM's ``Sampler.sample``: a token for each row of ``logits`` (rows x vocabulary), and the logits it used.

        These logits are those of the rank's own part where the rows are shared out; nobody asks for them then.
        """
        rows = len(logits)
        self._batches += 1
        if not self._is_shared(rows, by_row, **named):
            return self._sample(logits, *by_row, **named)  # type: ignore[no-any-return]
        ranks, rank = self._group.world_size, self._group.rank_in_group
        size = -(-rows // ranks)
        # All parts are of one size, as an all-gather wants it: the last one goes back into the part before.
        first = min(rank * size, rows - size)
        part = slice(first, first + size)
        tokens, used = self._sample(logits[part], *(one[part] for one in by_row), **named)
        # As logits are gathered, by the last dimension; by the first, vLLM may take memory for NVLink multicast.
        every = self._group.all_gather(tokens[None], dim=-1)[0]
        before_last = (ranks - 1) * size
        if rows < len(every):
            every = torch.cat([every[:before_last], every[before_last - rows :]])
        return every, used

    def _is_shared(self, rows: int, by_row: tuple[Any, ...], return_logprobs: bool = False, **others: Any) -> bool:
        """Decide by what is the same on all ranks: not by the slots of rows, which vLLM 0.26 frees in any order."""
        ranks = self._group.world_size
        if not self.is_on or self._batches % _WHOLE_EVERY == 0 or return_logprobs or others:
            return False
        if rows < ranks * max(_LEAST, ranks) or any(len(one) != rows for one in by_row):
            return False  # a few rows; several logits of a row, for speculation
        return not (self._has_flashinfer and self._have_top(by_row))

    def _have_top(self, by_row: tuple[Any, ...]) -> bool:
        """Whether one of these rows asks for top-k or top-p, or it is not known which rows they are."""
        slots = next((one for one in by_row if isinstance(one, np.ndarray)), None)
        if slots is None:
            return True
        states = self._states
        return bool((states.top_p.np[slots] != 1.0).any() or (states.top_k.np[slots] != states.vocab_size).any())


def turn_on(engine: LLMEngine) -> str:
    """Divide the sampling among the ranks. Returns why that is not possible here, "" if it is."""
    return "" if share_sampling(engine) else "one rank samples all rows here, or vLLM uses another sampler"


def turn_off(engine: LLMEngine) -> None:
    """Let this rank sample all rows again, as another rank of its TP group does."""
    executor: Any = engine.engine_core.engine_core.model_executor
    vars(executor.driver_worker.worker.model_runner.sampler).pop("sample", None)


def share_sampling(engine: LLMEngine) -> SharedSampling | None:
    """Divide sampling among the ranks of this engine's TP group; None if impossible. Repeated: the same object."""
    if PATCHES["sharded-sampling"].off_in(__version__):
        return None
    from vllm.distributed.parallel_state import get_tp_group
    from vllm.v1.worker.gpu.sample.sampler import Sampler

    try:
        executor: Any = engine.engine_core.engine_core.model_executor
        sampler = executor.driver_worker.worker.model_runner.sampler
        own = getattr(sampler.sample, "__self__", None)
        if isinstance(own, SharedSampling):
            return own
        group = get_tp_group()
        if type(sampler) is not Sampler or group.world_size == 1:
            return None
        shared = SharedSampling(sampler, group)
    except (AttributeError, AssertionError):  # another runner of models; workers in processes of their own
        return None
    sampler.sample = shared.sample
    return shared
