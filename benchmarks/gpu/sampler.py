"""Where a process's main thread spends its time, sampled from another thread: unlike cProfile it slows nothing.

And how often it waits for the GPU: a step whose answer was there when it was asked for had the GPU wait for Python.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from types import FrameType
from typing import Self
from unittest import mock

import torch

INTERVAL_S = 0.005
# Python hands its lock over after this time; by default after 5 ms, or wherever the main thread lets go of it, and then
# all that it does between two such places would be counted as the second.
_SWITCH_S = 0.0001


# A wait no longer than that found the answer there.
_NO_WAIT_S = 0.0002


class Waits:
    """Times each wait for a CUDA event: vLLM has one in a step, for the tokens of the step before."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __enter__(self) -> Self:
        # vLLM for the CPU has put an empty class there.
        own = getattr(torch.cuda.Event, "synchronize", lambda event: None)

        def synchronize(event: torch.cuda.Event) -> None:
            began = time.perf_counter()
            own(event)
            self.seconds.append(time.perf_counter() - began)

        self._patch = mock.patch.object(torch.cuda.Event, "synchronize", synchronize, create=True)
        self._patch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.stop()

    def __str__(self) -> str:
        none = sum(one < _NO_WAIT_S for one in self.seconds)
        return f"{len(self.seconds)} waits for the GPU, {sum(self.seconds):.2f} s; {none} found it done"


class Sampler:
    """Samples the thread that makes it, from ``start`` to ``stop``."""

    def __init__(self) -> None:
        self._of = threading.get_ident()
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        self._thread.start()

    def stop(self) -> str:
        """End, and return collapsed stacks, the most frequent first: `outer;inner;innermost count` a line."""
        self._ends.set()
        self._thread.join()
        sys.setswitchinterval(self._switch)
        return "\n".join(f"{';'.join(stack)} {count}" for stack, count in self._stacks.most_common())

    def _sample(self) -> None:
        while not self._ends.is_set():
            frame = sys._current_frames().get(self._of)
            self._stacks[_stack(frame)] += 1
            time.sleep(INTERVAL_S)


def _stack(frame: FrameType | None) -> tuple[str, ...]:
    names: list[str] = []
    while frame is not None:
        code = frame.f_code
        file = code.co_filename.rpartition("/")[2].removesuffix(".py")
        names.append(f"{file}:{code.co_qualname if hasattr(code, 'co_qualname') else code.co_name}")
        frame = frame.f_back
    return tuple(reversed(names))


def inclusive(stacks: str) -> list[tuple[str, float]]:
    """The share of samples in which a function stood anywhere on the stack, the largest first."""
    seen: Counter[str] = Counter()
    every = 0
    for line in stacks.splitlines():
        stack, _, count = line.rpartition(" ")
        every += int(count)
        for name in set(stack.split(";")):
            seen[name] += int(count)
    return [(name, count / every) for name, count in seen.most_common()]
