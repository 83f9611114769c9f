"""When each GPU began and ended each batch, in vLLM's workers and in our ranks alike; and what to make of it.

With VLLM_HPC_BENCHMARK_TIMELINE=1 benchmarks.gpu.rank starts its engine with ``worker_extension_cls`` set to Timeline,
and run one more round of each way, which counts for nothing, into OUT/<way>-<rank>.timeline.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import torch

NAME = f"{__name__}.Timeline"
VARIABLE = "VLLM_HPC_BENCHMARK_TIMELINE"
# A gap of that many milliseconds between two batches is told of.
_LONG_MS = 5.0


class Batch(msgspec.Struct, frozen=True, array_like=True):
    """One batch on one GPU: sequences, tokens, and milliseconds from the first batch's begin to its begin and end.

    It begins when the worker turns to it or the GPU is done with the one before, whichever is later.
    """

    sequences: int
    tokens: int
    began: float
    ended: float

    @property
    def is_decoding(self) -> bool:
        """Whether it holds no prompts: one token of each sequence."""
        return self.tokens == self.sequences


class Timeline:
    """Methods of a worker (vLLM's ``worker_extension_cls``), to be called by ``collective_rpc``."""

    model_runner: Any

    def begin_timeline(self) -> None:
        """Mark each batch from here on."""
        runner = self.model_runner
        marks: list[tuple[int, int, Any, list[Any]]] = []
        own_execute, own_sample = runner.execute_model, runner.sample_tokens

        def execute_model(scheduled: Any, *given: Any, **named: Any) -> Any:
            counts = scheduled.num_scheduled_tokens
            if counts:
                marks.append((len(counts), sum(counts.values()), _mark(), []))
            return own_execute(scheduled, *given, **named)

        def sample_tokens(*given: Any, **named: Any) -> Any:
            answer = own_sample(*given, **named)
            marks[-1][3].append(_mark())
            return answer

        runner.execute_model, runner.sample_tokens = execute_model, sample_tokens
        self._timeline_marks = marks

    def end_timeline(self) -> list[list[float]]:
        """The batches since, each as Batch's fields."""
        del self.model_runner.execute_model, self.model_runner.sample_tokens
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        first = self._timeline_marks[0][2]
        return [
            [sequences, tokens, first.elapsed_time(began), first.elapsed_time(ended[0])]
            for sequences, tokens, began, ended in self._timeline_marks
            if ended
        ]


class _HostMark:
    """For devices without a clock of their own."""

    def __init__(self) -> None:
        self._at = time.perf_counter()

    def elapsed_time(self, other: _HostMark) -> float:
        return 1000 * (other._at - self._at)


def _mark() -> Any:
    if not torch.cuda.is_available():
        return _HostMark()
    event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def record(engine: Any, run: Callable[[], Any], file: Path) -> str:
    """Run once more with it, keep the first worker's batches in ``file``, and return what to say of them."""
    engine.collective_rpc("begin_timeline")
    done = run()
    batches = engine.collective_rpc("end_timeline")[0]
    file.write_text(json.dumps(batches))
    return f"{done.seconds:.2f} s while timed; {describe(msgspec.convert(batches, list[Batch]))}"


def describe(batches: list[Batch]) -> str:
    """Where a GPU's time went."""
    gaps = [(after.began - before.ended, number) for number, (before, after) in enumerate(pairwise(batches))]
    most = max(batch.sequences for batch in batches)
    between = [(before, after.ended - before.ended) for before, after in pairwise(batches)]
    decoding = [ms for before, ms in between if before.is_decoding and before.sequences > 0.9 * most]
    mixed = [ms for before, ms in between if not before.is_decoding]
    idle = sum(gap for gap, _ in gaps if gap > 0)
    lines = [
        f"{len(batches)} batches in {batches[-1].ended / 1000:.2f} s; no batch for {idle / 1000:.2f} s",
        f"from end to end: {len(decoding)} full ones of decoding, {_quartiles(decoding)}; "
        f"{len(mixed)} with prompts, {_quartiles(mixed)}",
        *(f"  {gap:.1f} ms after batch {number}" for gap, number in gaps if gap > _LONG_MS),
    ]
    return "\n".join(lines)


def _quartiles(values: list[float]) -> str:
    if len(values) < 2:
        return str(values)
    return " / ".join(f"{one:.2f}" for one in statistics.quantiles(values, n=4)) + f" ms, {sum(values) / 1000:.2f} s"
