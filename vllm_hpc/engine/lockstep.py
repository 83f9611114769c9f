"""Keeps the ranks of a replica in step: what does not follow from input and outputs, the first rank decides for all.

Every rank runs its own scheduler. If one admitted another row, or stopped a step earlier, the others would wait in a
collective for ever. So a claimed chunk, an order to drain and the clock go through here, at steps that all ranks count
alike; and at each of these the others compare what they have done so far with what the first one has.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
import torch
import torch.distributed as dist

NO_CHUNK = -1


class Order(IntEnum):
    """What all ranks do from here on."""

    GO = 0
    DRAIN = 1  # admit no more, finish what runs
    STOP = 2  # leave, whatever runs


class Decision(msgspec.Struct, frozen=True):
    """The first rank's word: an order, and the chunk it has claimed where one was due (NO_CHUNK: none is left)."""

    order: Order
    chunk: int = NO_CHUNK


class DivergedError(RuntimeError):
    """The ranks of a replica did not do the same."""


class Lockstep:
    """The agreement of one replica's ranks. ``group`` is its CPU group, None where the replica is one rank."""

    def __init__(self, rank: int, replica: int, group: dist.ProcessGroup | None) -> None:
        self._rank, self._replica, self._group = rank, replica, group

    def agree(self, decision: Decision | None, step: int, digest: int) -> Decision:
        """Tell (first rank) or hear (the others, with None) what is decided. Raises DivergedError.

        ``step`` counts this rank's steps, ``digest`` (64 bits) is over all that it has generated.
        """
        if self._group is None:
            assert decision is not None
            return decision
        told = [decision.order, decision.chunk, step, digest] if decision else [0, 0, 0, 0]
        word = torch.tensor(told, dtype=torch.int64)
        dist.broadcast(word, group=self._group, group_src=0)
        order, chunk, first_step, first_digest = word.tolist()
        if (first_step, first_digest) != (step, digest):
            raise DivergedError(
                f"the ranks of replica {self._replica} diverged: rank 0 was at step {first_step} (digest "
                f"{first_digest & (2**64 - 1):016x}), rank {self._rank} at step {step} ({digest & (2**64 - 1):016x})"
            )
        return Decision(Order(order), chunk)

    def share(self, value: bytes) -> bytes:
        """The first rank's bytes, on every rank."""
        if self._group is None:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self._group, group_src=0)
        return values[0]
