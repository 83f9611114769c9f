"""--verify STEPS: the ranks of a replica compare every token that they sampled, each STEPS steps.

The rank loop compares finished rows only (lockstep.py), and says neither which row it is nor when it went wrong. This
wraps an engine, so that without --verify nothing in the loop is there for it.
"""

from __future__ import annotations

import hashlib
import re
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.engine.interface import Engine, InFlight, Ready
from vllm_hpc.engine.loop.lockstep import DivergedError, Lockstep
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.words import counted

# Numbers that are kept until the next comparison, 8 bytes each: what is older is only in the digest.
_MOST_KEPT = 1 << 22
# vLLM's own id of a request: with "<n>_" before it for one of several outputs, and letters behind it.
_ID = re.compile(r"(?:(\d+)_)?(\d+)(?:-[0-9a-f]+)?")
_NO_ROW = -1
# Of ranks and of rows in a message.
_MOST_NAMED = 4
# Of a digest, in bytes.
_SIZE = 16


class Sampled(NamedTuple):
    """What one step gave one output of a row. ``row`` is its index, -1 for the probe."""

    step: int
    row: int
    output: int
    tokens: tuple[int, ...]


class TokenLog:
    """What was sampled since the last comparison, as numbers: step, row, output, how many tokens, and these."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self._earlier = hashlib.blake2b(digest_size=_SIZE)

    def add(self, step: int, key: str, tokens: Sequence[int]) -> None:
        """Add what a request, by the engine's id, got in a step."""
        found = _ID.fullmatch(key)
        row, output = (int(found[2]), int(found[1] or 0)) if found else (_NO_ROW, 0)
        self.numbers.extend((step, row, output, len(tokens), *tokens))
        if len(self.numbers) > _MOST_KEPT:
            self._earlier.update(self.numbers)
            self.numbers = array("q")

    def digest(self) -> bytes:
        """A digest over all of it, 16 bytes."""
        whole = self._earlier.copy()
        whole.update(self.numbers)
        return whole.digest()


class VerifiedEngine:
    """An engine whose ranks compare what they sample every ``every`` steps. Steps are counted from 1 in each attempt.

    Its steps raise DivergedError, on all ranks of the replica, with the step, the ranks and the rows that differ.
    """

    def __init__(self, engine: Engine, lockstep: Lockstep, report: RankReport, replica: int, every: int) -> None:
        self._engine, self._lockstep, self._report = engine, lockstep, report
        self._replica, self._every = replica, every
        self._step, self._log, self._compared = 0, TokenLog(), 0
        self.max_num_seqs = engine.max_num_seqs
        engine.watch(lambda key, tokens: self._log.add(self._step, key, tokens))

    def request_maker(self, record: JobRecord, writes: bool) -> Callable[[Row], Ready]:
        """The engine's."""
        return self._engine.request_maker(record, writes)

    def add_request(self, key: str, ready: Ready) -> None:
        """The engine's."""
        self._engine.add_request(key, ready)

    def watch(self, told: Callable[[str, Sequence[int]], None]) -> None:
        """The engine's."""
        self._engine.watch(told)

    def idle_step(self) -> None:
        """Take a step without rows, in which nothing is sampled."""
        self._engine.idle_step()

    def look(self) -> InFlight | None:
        """The engine's."""
        return self._engine.look()

    def step(self, work: Callable[[], None]) -> tuple[list[Any], bool]:
        """Take one step, and compare if it is due, on all ranks at the same step. Raises DivergedError."""
        self._step += 1
        found = self._engine.step(work)
        if self._step % self._every == 0:
            self._compare()
        return found

    def answer(self, ready: Ready, output: Any, replica: int) -> Row:
        """The engine's."""
        return self._engine.answer(ready, output, replica)

    def failure(self, row: Row, error: Exception) -> Row:
        """The engine's."""
        return self._engine.failure(row, error)

    def __enter__(self) -> Self:
        self._engine.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if not any(error):  # else the other ranks may not come
                self._compare()
                print(f"vllm-hpc: --verify: all ranks agree, by {counted(self._compared, 'comparison')}", flush=True)
        finally:
            self._engine.__exit__(*error)

    def _compare(self) -> None:
        before = self._report.mark
        self._report.enter(Phase.AGREE)
        digests = self._lockstep.gather(self._log.digest())
        if len(set(digests)) > 1:  # the mark stays: an error of a step would have rows suspected, and run again
            raise DivergedError(explain(self._replica, self._share(), self._step))
        self._report.mark = before
        self._log = TokenLog()
        self._compared += 1

    def _share(self) -> list[list[Sampled]]:
        """What every rank kept since the last comparison."""
        mine = self._log.numbers.tobytes()
        sizes = [int.from_bytes(size, "big") for size in self._lockstep.gather(len(mine).to_bytes(8, "big"))]
        kept = self._lockstep.gather(mine.ljust(max(*sizes, 8), b"\0"))
        return [list(_read(one[:size])) for one, size in zip(kept, sizes, strict=True)]


def verified(engine: Engine, lockstep: Lockstep, report: RankReport, replica: int, every: int | None) -> Engine:
    """The engine, which compares what is sampled each ``every`` steps; None: the engine itself."""
    return VerifiedEngine(engine, lockstep, report, replica, every) if every else engine


def explain(replica: int, ranks: Sequence[Sequence[Sampled]], step: int) -> str:
    """Which ranks sampled something else, when and in which rows; ``step`` is that of the comparison."""
    said = f"the ranks of replica {replica} diverged"
    place = next((place for place in range(max(map(len, ranks))) if not _agree(ranks, place)), None)
    if place is None:
        return f"{said} before step {step}: more was sampled since the last comparison than is kept: use fewer STEPS"
    at = min(one[place].step for one in ranks if place < len(one))
    in_step = [{(one.row, one.output): one.tokens for one in rank if one.step == at} for rank in ranks]
    usual = max(in_step, key=lambda one: (in_step.count(one), -in_step.index(one)))
    others = [number for number, one in enumerate(in_step) if one != usual]
    odd = in_step[others[0]]
    rows = sorted({row for row in usual.keys() | odd.keys() if usual.get(row) != odd.get(row)})
    like = _named("rank", [number for number, one in enumerate(in_step) if one == usual])
    verb = "differs" if len(others) == 1 else "differ"
    return (
        f"{said} at step {at}: {_named('rank', others)} {verb} from {like} in {_rows(rows)}{_tokens(usual, odd, rows)}"
    )


def _agree(ranks: Sequence[Sequence[Sampled]], place: int) -> bool:
    there = {rank[place] if place < len(rank) else None for rank in ranks}
    return len(there) == 1


def _read(content: bytes) -> Iterator[Sampled]:
    numbers = array("q", content)
    place = 0
    while place < len(numbers):
        step, row, output, count = numbers[place : place + 4]
        place += 4 + count
        yield Sampled(step, row, output, tuple(numbers[place - count : place]))


def _named(kind: str, numbers: Sequence[int]) -> str:
    """The first few: "rank 3", "ranks 0, 1 and 6 more"."""
    shown = ", ".join(map(str, numbers[:_MOST_NAMED]))
    more = len(numbers) - _MOST_NAMED
    return f"{kind}{'s' * (len(numbers) > 1)} {shown}{f' and {more} more' if more > 0 else ''}"


def _rows(rows: Sequence[tuple[int, int]]) -> str:
    numbers = list(dict.fromkeys(row for row, _ in rows))
    if _NO_ROW in numbers:
        return "the probe" if len(numbers) == 1 else f"the probe and {counted(len(numbers) - 1, 'row')}"
    return _named("row", numbers)


def _tokens(usual: dict[Any, tuple[int, ...]], odd: dict[Any, tuple[int, ...]], rows: Sequence[Any]) -> str:
    """The tokens of the first row, as the odd rank has them and as the others do."""
    pair = [one.get(rows[0]) for one in (odd, usual)]
    here, there = (", ".join(map(str, tokens)) if tokens is not None else "nothing" for tokens in pair)
    return f" (token {here} instead of {there})"
