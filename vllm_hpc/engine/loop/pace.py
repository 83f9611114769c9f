"""How fast a replica goes, as its first rank sees it: a sample every second, from what the engine has in flight.

Nothing here costs time for a token or a step: finished rows are added up, and the sequences in flight are looked at
once a second.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from vllm_hpc.engine.interface import Engine, InFlight
from vllm_hpc.jobfolder.records import Pace, Sample

# Seconds between two samples.
_EVERY_S = 1.0
# The speed is that of the last minute, or of the last quarter of the attempt, at most ten minutes: nodes that others
# use, too, are fast and slow in turns.
_WINDOW_S, _WINDOW_SHARE, _MOST_S = 60.0, 0.25, 600.0
# Lengths are grouped from this one on, this many groups for each doubling.
_EXACT, _GROUPS = 16, 8
# Of the line through the times of steps: what is taken for fixed before it is known, how much of the engine must have
# emptied for it to be known, and what is left of a sample's weight after each further one.
_FIXED, _DOUBT, _REMEMBERED = 0.5, 0.1, 0.99


class Lengths:
    """Counts of sequences in groups of nearly equal length: what they are used for needs no more."""

    def __init__(self) -> None:
        self._groups: dict[int, tuple[int, int]] = {}

    def add(self, tokens: int) -> None:
        """Add a sequence of that many output tokens."""
        group = tokens if tokens < _EXACT else _EXACT + int(_GROUPS * math.log2(tokens / _EXACT))
        count, total = self._groups.get(group, (0, 0))
        self._groups[group] = (count + 1, total + tokens)

    def groups(self) -> tuple[tuple[int, int], ...]:
        """How many sequences, and their tokens, for each group."""
        return tuple(self._groups[group] for group in sorted(self._groups))


class StepCost:
    """How a step's time depends on how many sequences run: a straight line through what was seen, by least squares.

    While the engine is full, nothing can be seen of that, and half of the time is taken for fixed: on GPUs, weights are
    read whatever runs. When it empties, it is seen.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._weight = self._running = self._seconds = 0.0  # the two are means
        self._square = self._product = 0.0

    def add(self, slot_seconds: float, seconds: float, tokens: int) -> None:
        """Add what was seen in some seconds."""
        if tokens <= 0 or slot_seconds <= 0:
            return
        running, step = slot_seconds / seconds, slot_seconds / tokens
        self._weight = _REMEMBERED * self._weight + 1
        off = running - self._running
        self._running += off / self._weight
        self._square = _REMEMBERED * self._square + off * (running - self._running)
        self._product = _REMEMBERED * self._product + (running - self._running) * (step - self._seconds)
        self._seconds += (step - self._seconds) / self._weight

    @property
    def fixed(self) -> float:
        """The share of a full engine's step that takes as long with fewer sequences, 0 to 1."""
        if not self._seconds:
            return _FIXED
        # As if this had been seen of the usual slope: so much of the usual range of sequences.
        usual, known = (1 - _FIXED) * self._seconds / self._running, (_DOUBT * self._most) ** 2
        slope = (self._product + usual * known) / (self._square + known)
        full = self._seconds + slope * (self._most - self._running)
        return min(1.0, max(0.0, 1 - slope * self._most / full)) if full > 0 else _FIXED


class Gauge:
    """Takes samples of one attempt, and gives them to ``note``, with the pace while it lasts; without that, none."""

    def __init__(self, engine: Engine, note: Callable[[Sample, Pace | None], None] | None) -> None:
        self._engine, self._note = engine, note
        self._rows = self._tokens = 0
        self._ended, self._cost = Lengths(), StepCost(engine.max_num_seqs)
        self._next = self._began = 0.0
        self._at, self._running, self._slot_seconds = 0.0, 0, 0.0
        # Of the last minutes: when, and tokens and slot-seconds until then. The first step, a warm-up, is before it.
        self._window: deque[tuple[float, int, float]] = deque()

    def add(self, output: Any) -> None:
        """Count a finished request."""
        self._rows += 1
        if not isinstance(output.outputs, list):  # of an embedding the input is what was computed
            self._tokens += len(output.prompt_token_ids)
            return
        for one in output.outputs:
            self._tokens += len(one.token_ids)
            self._ended.add(len(one.token_ids))

    def add_failed(self) -> None:
        """Count a row that could not be run."""
        self._rows += 1

    def end_step(self, now: float, held: int) -> None:
        """Take a sample if it is due, at this ``time.perf_counter()``; the loop has ``held`` rows in the engine."""
        if now >= self._next and self._note:
            self._note(*self._take(now, held))

    def end(self, now: float, held: int) -> None:
        """The last sample, so that what is known of an attempt that has ended is whole."""
        if self._note:
            self._note(self._take(now, held)[0], None)

    def _take(self, now: float, held: int) -> tuple[Sample, Pace | None]:
        self._next = now + _EVERY_S
        seen = self._engine.look()
        lengths = seen.lengths if seen else []
        in_flight = sum(lengths)
        tokens = self._tokens + in_flight
        found = seen or InFlight(held, 0, [])
        if self._window and now > self._at:
            slots = (now - self._at) * (self._running + found.running) / 2
            self._slot_seconds += slots
            self._cost.add(slots, now - self._at, tokens - self._window[-1][1])
        self._at, self._running = now, found.running
        self._window.append((now, tokens, self._slot_seconds))
        self._began = self._began or now
        wide = min(_MOST_S, max(_WINDOW_S, _WINDOW_SHARE * (now - self._began)))
        while len(self._window) > 2 and now - self._window[1][0] >= wide:
            self._window.popleft()
        sample = Sample(
            at=round(time.time(), 3),
            tokens=tokens,
            rows=self._rows,
            running=found.running,
            waiting=found.waiting,
            most_running=self._engine.max_num_seqs,
            in_flight=in_flight,
            kv=None if found.kv is None else round(found.kv, 4),
        )
        return sample, self._pace(now, tokens, lengths if seen else None)

    def _pace(self, now: float, tokens: int, lengths: list[int] | None) -> Pace | None:
        began, before, slots = self._window[0]
        if now <= began:
            return None
        begun = Lengths()
        for length in lengths or []:
            begun.add(length)
        return Pace(
            seconds=round(now - began, 3),
            tokens=max(0, tokens - before),
            slot_seconds=round(self._slot_seconds - slots, 3),
            ended=self._ended.groups() if lengths is not None else (),
            begun=begun.groups(),
            fixed=round(self._cost.fixed, 3),
        )
