"""A replica's first rank: only it looks at the folder, the clock and the store, and it decides for all ranks."""

from __future__ import annotations

import os
import time
from typing import NamedTuple

import msgspec

from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.loop.chunk_claims import Claims
from vllm_hpc.engine.loop.drain_watch import DrainWatch
from vllm_hpc.engine.loop.lockstep import NO_CHUNK, Decision, Order
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import Claimed
from vllm_hpc.spec.write_file import open_append

# Seconds between two questions whether there is a drain (drain_watch.py).
_LOOK_S = 1.0
# The part of the drain's lead that is reserved for writing, for the ranks to leave and for the script to ask for
# another attempt: ranks take 4-5 s to end, torchrun and srun as long again.
_KEPT_S, _KEPT_SHARE = 10.0, 0.25


class ReplicaRun(NamedTuple):
    """A replica in one attempt. ``lead_s``: how long before the end of the walltime the script asks for a drain."""

    job: JobFolder
    replica: int
    attempt: int
    lead_s: float


class Chief:
    """Takes the decisions of a replica; ``store`` is where chiefs tell each other of a drain."""

    def __init__(self, run: ReplicaRun, claims: Claims, writer: ShardWriter, store: JobStore) -> None:
        self._lead_s, self._claims, self._writer = run.lead_s, claims, writer
        self._watch = DrainWatch(run.job, run.attempt, store)
        self._claimed = open_append(run.job.claimed(run.replica, run.attempt))
        self._order, self._stop_at, self._looked = Order.GO, float("inf"), 0.0

    def decide(self, wants_chunk: bool, any_part: bool = True) -> Decision:
        """Decide what all ranks do from now on. Raises OSError if rows can no longer be written.

        ``any_part``: whether a chunk may come from another replica's part.
        """
        self._writer.check()
        self._look()
        if self._order is Order.GO and wants_chunk:
            chunk = self._claims.take(any_part)
            if chunk is not None:
                self._note(Claimed(chunk=chunk))
                return Decision(self._order, chunk)
        return Decision(self._order, NO_CHUNK)

    def begin_probe(self) -> None:
        """Record that a probe runs, before it begins."""
        self._note(Claimed(probe=True))

    def begin_trial(self, rows: list[int]) -> None:
        """Record which rows are on trial, before the trial begins."""
        self._note(Claimed(trial=rows))

    def _look(self) -> None:
        now = time.monotonic()
        if now >= self._stop_at:
            self._order = Order.STOP
        if self._stop_at < float("inf") or now - self._looked < _LOOK_S:
            return
        self._looked = now
        seen = self._watch.look()
        if seen.late_s is not None:
            self._stop_at = now - seen.late_s + self._lead_s - max(_KEPT_S, _KEPT_SHARE * self._lead_s)
        elif self._order is not Order.GO or not seen.is_asked:
            return
        if self._order is Order.GO:
            print("vllm-hpc: draining: no more rows are admitted", flush=True)
        self._order = Order.DRAIN

    def _note(self, line: Claimed) -> None:
        os.write(self._claimed, msgspec.json.encode(line) + b"\n")
