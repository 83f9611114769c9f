"""Where a replica's time goes: steps, gaps between them, and how full the engine was."""

from __future__ import annotations

import time

from vllm_hpc.jobfolder.records import Run


class Meter:
    """Seconds and sequences of one attempt. Create it when the engine is ready: warm-up ends with the first step.

    ``most`` is max_num_seqs; ``before``: seconds of import and load.
    """

    def __init__(self, attempt: int, most: int, before: dict[str, float]) -> None:
        self._attempt, self._most, self._before = attempt, most, before
        self.steps = 0
        self._made = self._began = self._ended = time.perf_counter()
        self._first_ended: float | None = None
        self._drained: float | None = None
        self._idle = self._busy = self._filled = 0.0

    @property
    def ended(self) -> float:
        """When the last step ended, by ``time.perf_counter()``."""
        return self._ended

    def begin_step(self) -> None:
        """A step begins: the engine was idle since the last one ended."""
        now = time.perf_counter()
        if self.steps:
            self._idle += now - self._ended
        self._began = now

    def end_step(self, sequences: int) -> None:
        """A step has ended with this many sequences in flight (those of rows with several outputs may wait)."""
        self._ended = time.perf_counter()
        if not self.steps:
            self._first_ended = self._ended
        self.steps += 1
        self._busy += self._ended - self._began
        self._filled += (self._ended - self._began) * min(sequences, self._most)

    def pause(self) -> None:
        """Nothing is in flight: what follows does not count as idle."""
        self._ended = time.perf_counter()

    def drain(self) -> None:
        """From now on no row is admitted."""
        self._drained = self._drained or time.perf_counter()

    def run(self, rows: int, prompt_tokens: int, completion_tokens: int) -> Run:
        """The record of this attempt so far."""
        now = time.perf_counter()
        first = self._first_ended or now
        drained = max(self._drained or now, first)
        seconds = {
            **self._before,
            "warm_up": first - self._made,
            "generate": drained - first,
            "drain": now - drained,
            "idle": self._idle,
        }
        return Run(
            attempt=self._attempt,
            rows=rows,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            steps=self.steps,
            occupancy=round(self._filled / self._busy / self._most, 4) if self._busy else 0.0,
            seconds={name: round(value, 3) for name, value in seconds.items()},
        )
