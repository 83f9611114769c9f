"""Keeps the lanes of a replica together: in each turn all of them take a step, and they leave in the same one.

With attention in data parallel, each lane (a TP × PP group) runs rows of its own, but every step's experts are computed
by all ranks of the replica together. So a lane without a row in flight takes an idle step beside the others, and one
that left alone would leave them waiting. vLLM's own loop asks for the same before each of its steps
(vllm/v1/engine/llm_engine.py, has_unfinished_requests_dp).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist

from vllm_hpc.engine.loop.lockstep import Order

# Above any lane's number: none is on trial.
_NOBODY = 1 << 32


class LaneState(NamedTuple):
    """What a lane tells before a turn.

    ``is_busy``: it has rows in flight. ``goes_on``: it has more to do. ``is_on_trial``: it runs rows that may have
    killed an engine, and no other lane may run any meanwhile.
    """

    is_busy: bool
    goes_on: bool
    order: Order = Order.GO
    is_on_trial: bool = False


class Turn(NamedTuple):
    """What all lanes do next: whether they take a step, whether to go on at all, and whether this one may admit rows.

    ``order`` is the strictest of any lane's.
    """

    steps: bool
    goes_on: bool
    order: Order
    may_admit: bool


class Lanes(Protocol):
    """How the lanes of a replica meet before each turn."""

    def meet(self, state: LaneState) -> Turn:
        """Tell this lane's state, and hear what all do. Every rank of the replica calls this as often."""


class GroupedLanes:
    """Lanes that meet over the replica's CPU group: all ranks of a lane tell the same. ``lane``: which one of them."""

    def __init__(self, group: dist.ProcessGroup, lane: int) -> None:
        self._group, self._lane = group, lane

    def meet(self, state: LaneState) -> Turn:
        """One all-reduce of four numbers, of each the largest."""
        first_trial = -self._lane if state.is_on_trial else -_NOBODY
        words = torch.tensor([state.is_busy, state.goes_on, state.order, first_trial], dtype=torch.int64)
        dist.all_reduce(words, op=dist.ReduceOp.MAX, group=self._group)
        steps, goes_on, order, first = words.tolist()
        return Turn(bool(steps), bool(goes_on), Order(order), -first in (self._lane, _NOBODY))
