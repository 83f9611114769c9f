"""A barrier over the job's store: who waits in vain learns which ranks did not come, and on which nodes they are."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.engine.store.messages import Call
from vllm_hpc.spec.words import counted

# A month: no job waits for longer, and sockets cannot.
_MOST_S = 31 * 24 * 3600


class Barrier:
    """The barriers of one replica, in order. ``ranks`` are its ranks' numbers in the world of ``store``."""

    def __init__(self, store: JobStore, replica: int, rank: int, ranks: Sequence[int]) -> None:
        self._world = store
        self._store = store.under(f"program/{replica}/barrier/")
        self._rank, self._ranks, self._times = rank, ranks, 0

    def wait(self, timeout: float) -> None:
        """Wait until all ranks have called this as often as this one. Raises TimeoutError, ValueError."""
        timeout = _seconds(timeout)
        self._times += 1
        number = self._times
        count, done = f"{number}/count", f"{number}/all"
        self._store.set(f"at/{self._rank}", f"{number} {_caller()}")
        if self._store.add(count, 1) == len(self._ranks):
            self._store.set(done, "")
            # All have come here, so nobody waits at the one before.
            for name in ("count", "all"):
                self._store.ask(Call("delete", [f"{number - 1}/{name}"]))
        if self._store.wait([done], timeout) == [None]:
            raise TimeoutError(self._explain(number, timeout))

    def _explain(self, number: int, timeout: float) -> str:
        where = self._store.read([f"at/{rank}" for rank in range(len(self._ranks))])
        hosts = self._world.read([f"here/{rank}" for rank in self._ranks])
        late = [
            f"rank {rank} ({host or 'unknown host'}; {_last(said)})"
            for rank, (said, host) in enumerate(zip(where, hosts, strict=True))
            if _count_of(said) < number
        ]
        missing = ", ".join(late) or "all ranks came, but too late"
        return (
            f"barrier at {_caller(3)}: {counted(len(late), 'rank')} of {len(self._ranks)} did not come within "
            f"{timeout:g} s: {missing}"
        )


def _seconds(given: Any) -> float:
    """A program may have given anything. Raises ValueError."""
    is_number = isinstance(given, Real) and not isinstance(given, bool)
    if not is_number or not 0 < given <= _MOST_S:
        raise ValueError(f"timeout must be a number of seconds above 0 and at most {_MOST_S}, not {given!r:.40}")
    return float(given)


def _count_of(said: str | None) -> int:
    return int(said.split(" ", 1)[0]) if said else 0


def _last(said: str | None) -> str:
    return f"last in barrier {said.replace(' ', ', at ', 1)}" if said else "has been in no barrier"


def _caller(above: int = 2) -> str:
    """Where the program called the context, as "file.py:12"."""
    here: str = __file__
    frame = sys._getframe(above)
    while frame.f_back is not None and Path(frame.f_code.co_filename).parent == Path(here).parent:
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
