"""Keeps the ranks of a replica in step: the first rank decides whatever does not follow from input and outputs.

Every rank runs its own scheduler. If one admitted another row, or stopped a step earlier, the others would wait in a
collective forever. So claimed chunks, drain orders and the clock go through here, at the same steps on all ranks. At
each of these steps the others compare what they have done so far with what the first rank has done.

A decision is sent at one step and received at a later one: when ranks waited for each other between steps, the GPU was
idle for 7 % of the time (TP=2, two H100).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Any

import msgspec
import torch
import torch.distributed as dist

NO_CHUNK = -1


class Order(IntEnum):
    """What all ranks do from now on."""

    GO = 0
    DRAIN = 1  # admit no more, finish what runs
    STOP = 2  # leave, whatever runs


class Decision(msgspec.Struct, frozen=True):
    """What the first rank decided: an order, and the chunk that it claimed if one was due (NO_CHUNK: none is left).

    ``done`` has a byte for each row of the chunk: 1 if it need not run.
    """

    order: Order
    chunk: int = NO_CHUNK
    done: bytes = b""


class DivergedError(RuntimeError):
    """The ranks of a replica did not do the same."""


# On the wire: order, chunk, the first rank's steps and digest, and how many bytes of ``done`` follow.
_HEAD = struct.Struct("<5q")


class Agreement:
    """A decision on its way."""

    def __init__(self, replica: int, rank: int, decision: Decision | None, step: int, digest: int) -> None:
        self._replica, self._rank, self._decision = replica, rank, decision
        self._step, self._digest = step, digest
        self._word: torch.Tensor | None = None
        self._work: Any = None

    def send(self, group: dist.ProcessGroup, room: int) -> None:
        """Broadcast the first rank's decision to the others. ``room``: bytes for ``done``."""
        word = bytearray(_HEAD.size + room)
        if self._decision:
            order, chunk, done = self._decision.order, self._decision.chunk, self._decision.done
            _HEAD.pack_into(word, 0, order, chunk, self._step, self._digest, len(done))
            word[_HEAD.size : _HEAD.size + len(done)] = done
        self._word = torch.frombuffer(word, dtype=torch.uint8)
        self._work = dist.broadcast(self._word, group=group, group_src=0, async_op=True)

    def result(self) -> Decision:
        """Wait for the decision. Raises DivergedError if this rank was not in step with the first one."""
        if self._word is None:
            assert self._decision is not None
            return self._decision
        self._work.wait()
        word = self._word.numpy().tobytes()
        order, chunk, step, digest, size = _HEAD.unpack_from(word)
        if (step, digest) != (self._step, self._digest):
            raise DivergedError(
                f"the ranks of replica {self._replica} diverged: rank 0 was at step {step} (digest "
                f"{digest & (2**64 - 1):016x}), rank {self._rank} at step {self._step} "
                f"({self._digest & (2**64 - 1):016x})"
            )
        return Decision(Order(order), chunk, word[_HEAD.size : _HEAD.size + size])


class Lockstep:
    """The agreement of one replica's ranks. ``group`` is its CPU group, None if the replica has one rank."""

    def __init__(self, rank: int, replica: int, group: dist.ProcessGroup | None) -> None:
        self._rank, self._replica, self._group = rank, replica, group

    def tell(self, decision: Decision | None, step: int, digest: int, room: int) -> Agreement:
        """Send the first rank's decision; on the others, whose ``decision`` is None, receive it. All call ``result``.

        ``step`` counts this rank's steps, ``digest`` (64 bits) covers everything that it has generated, and ``room`` is
        the largest size of ``done``, the same on all ranks.
        """
        agreement = Agreement(self._replica, self._rank, decision, step, digest)
        if self._group is not None:
            agreement.send(self._group, room)
        return agreement

    def share(self, value: bytes) -> bytes:
        """The first rank's bytes, on every rank.

        Not as torch's objects: those are pickles, and gloo does not ask who connects.
        """
        if self._group is None:
            return value
        size = torch.tensor([len(value)])
        dist.broadcast(size, group=self._group, group_src=0)
        word = torch.frombuffer(bytearray(value.ljust(int(size), b"\0") or b"\0"), dtype=torch.uint8)
        dist.broadcast(word, group=self._group, group_src=0)
        return word.numpy().tobytes()[: int(size)]

    def gather(self, value: bytes) -> list[bytes]:
        """The bytes of every rank, which are as many on each."""
        if self._group is None:
            return [value]
        mine = torch.frombuffer(bytearray(value), dtype=torch.uint8)
        words = [torch.empty_like(mine) for _ in range(self._group.size())]
        dist.all_gather(words, mine, group=self._group)
        return [word.numpy().tobytes() for word in words]
