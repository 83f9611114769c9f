"""The fault of a rehearsal: a rank dies, hangs, fails in its first step, or computes different tokens.

It shows users whether requeueing works at their site.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from array import array

from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.rehearsal import Fault, Rehearsal


class FaultPlan:
    """What goes wrong on this rank, at row ``row`` (a request's key) or after ``after_s`` seconds; None: nothing.

    ``step`` goes wrong in the first step.
    """

    def __init__(self, fault: Fault | None, row: str | None, after_s: float | None) -> None:
        self._fault, self._row, self._after_s = fault, row, after_s
        self._ready_at = time.monotonic()
        self._alters_next = self._has_struck = False

    @classmethod
    def of(cls, settings: Rehearsal, rank: int, place: Place, is_first: bool) -> FaultPlan:
        """This rank's fault, by its place in the whole job and in its replica.

        A row's fault happens whenever the row runs, a timed one only in the first attempt (``is_first``), and ``step``
        in every attempt.
        """
        if settings.fault_row is not None:
            is_mine = place.lane_rank == 0 if settings.fault_rank is None else rank == settings.fault_rank
            return cls(settings.fault if is_mine else None, str(settings.fault_row), None)
        is_mine = rank == (settings.fault_rank or 0) and (is_first or settings.fault == "step")
        return cls(settings.fault if is_mine else None, None, settings.fault_s)

    def begin(self) -> None:
        """Start counting seconds: the engine is ready."""
        self._ready_at = time.monotonic()

    def strike(self, started: list[str]) -> None:
        """Let the fault happen when it is due. Called in each step, with the rows that start in it."""
        if self._fault is None or not self._is_due(started):
            return
        if self._fault == "diverge":
            self._alters_next = self._row is None and not self._has_struck
            return
        self._has_struck = True
        print(f"vllm-hpc: rehearsed fault: {self._fault}", flush=True)
        if self._fault == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hang":
            threading.Event().wait()
        if self._fault == "step":
            # As the words of a driver differ from start to start.
            raise RuntimeError(f"rehearsed fault: CUDA error: unspecified launch failure (pid {os.getpid()})")
        import torch

        raise torch.OutOfMemoryError("rehearsed fault: out of memory")

    def end(self) -> None:
        """Log after the loop if the fault has not happened."""
        if self._fault is None or self._has_struck:
            return
        why = "the rows finished first" if self._row is None else f"row {self._row} generated nothing on this rank"
        print(f"vllm-hpc: rehearsed fault {self._fault} did not happen: {why}", flush=True)

    def altered(self, tokens: array[int], key: str) -> array[int]:
        """The tokens of a row that ends, or different ones if this rank must diverge."""
        if self._fault != "diverge" or not (self._alters_next or key == self._row):
            return tokens
        self._alters_next, self._has_struck = False, True
        tokens[0] ^= 1
        return tokens

    def _is_due(self, started: list[str]) -> bool:
        if self._fault == "step":
            return True
        if self._row is not None:
            return self._row in started
        return self._after_s is not None and time.monotonic() - self._ready_at >= self._after_s
