"""Runs a replica's rows through its engine: admits a row whenever another finishes, and writes each as it finishes.

Every rank of a replica runs this, and all take the same steps: rows come in the order of the claims, and ranks first
agree on whatever does not follow from the input and the outputs (``vllm_hpc.engine.loop.lockstep``).
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.engine.health.rank_record import Phase, RankReport
from vllm_hpc.engine.health.shard_writer import MakeRow, ShardWriter
from vllm_hpc.engine.interface import Engine, Ready
from vllm_hpc.engine.loop.leader import Chief
from vllm_hpc.engine.loop.lockstep import NO_CHUNK, Agreement, Decision, Lockstep, Order
from vllm_hpc.engine.loop.pace import Gauge
from vllm_hpc.engine.loop.probe import run_probe
from vllm_hpc.engine.loop.row_prefetch import Feed
from vllm_hpc.engine.loop.step_timer import Meter
from vllm_hpc.engine.rows.row_out import token_ids
from vllm_hpc.jobfolder.chunks import Chunks
from vllm_hpc.spec.words import counted

# Steps between two agreements: ranks hear of a drain a few steps late.
_AGREE_EVERY = 4
# Rows that wait in the engine, and as many again that are read ahead, as a share of the running sequences: more than
# finish in one step, unless all of them do.
_AHEAD_SHARE = 8
# The most rows admitted between two steps: vLLM takes 0.2 to 0.4 ms for each (on an H100's host), and the GPU can work
# on these while the rest are admitted.
_ADMITTED_AT_ONCE = 64


class Digest:
    """A running hash of finished rows' token ids, in the order in which they finish: equal on ranks in step."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self.rows = 0
        # The index of the row that was added last.
        self.last: int | None = None

    @property
    def hexdigest(self) -> str:
        """16 hexadecimal digits."""
        return self._hash.hexdigest()

    @property
    def number(self) -> int:
        """The same as a signed 64-bit number."""
        return int.from_bytes(self._hash.digest(), signed=True)

    def add(self, index: int, tokens: list[list[int]]) -> None:
        """Add one row; a row that failed has no tokens."""
        self._hash.update(f"{index}:{tokens}".encode())
        self.rows, self.last = self.rows + 1, index


class Work(NamedTuple):
    """The rows that a replica may run, in ``chunks``.

    ``done`` has a 1 for every row that must not run, and for those of ``trials``, groups that run first and alone.
    ``share`` is the most rows that this replica should hold, so that the first replica to start does not take the
    others' part of a small input. ``probe`` runs before all rows.
    """

    replica: int
    chunks: Chunks
    done: bytearray
    trials: list[list[int]]
    share: int
    probe: Ready | None = None


class Gauges(NamedTuple):
    """Where a rank records the times of its steps and what it is doing."""

    meter: Meter
    report: RankReport


class Lead(NamedTuple):
    """What only a replica's first rank has: the chief decides for all ranks, the writer writes the rows."""

    chief: Chief
    writer: ShardWriter


class Loop:
    """One attempt of one replica on this rank. ``lead`` is the first rank's."""

    def __init__(
        self, engine: Engine, feed: Feed, lockstep: Lockstep, work: Work, gauges: Gauges, lead: Lead | None
    ) -> None:
        self._engine, self._feed, self._lockstep = engine, feed, lockstep
        self._replica, self._probe = work.replica, work.probe
        self._chunks, self._done, self._trials = work.chunks, work.done, list(work.trials)
        self._meter, self._report = gauges
        self._chief: Chief | None = lead.chief if lead else None
        self._writer: ShardWriter | None = lead.writer if lead else None
        self._gauge = Gauge(engine, lead.writer.note if lead else None)
        self._most: int = min(engine.max_num_seqs, max(1, work.share))
        self._ahead: int = min(self._most // _AHEAD_SHARE, max(0, work.share - self._most) // 2)
        self._in_flight: dict[str, Ready] = {}
        self._finished, self._sequences = list[tuple[Ready, Any]](), 0
        # Whether no chunk is left: in this replica's own part, in any part.
        self._order, self._is_part_used, self._is_exhausted = Order.GO, False, False
        # The pending agreement; whether it asks for a chunk, and from any part; and the step at which it was sent.
        self._asked: Agreement | None = None
        self._asked_chunk, self._asked_any, self._asked_at = False, False, -1
        self.digest = Digest()

    def run(self) -> None:
        """Run until no row is left, or until told to stop."""
        try:
            with self._engine:
                self._run_probe()
                while self._goes_on():
                    pass
        except BaseException:
            # The error is recorded with what the loop was doing; nothing here may hide it.
            with suppress(Exception), self._report.kept():
                self._rescue()
            raise
        self._hand_over()
        self._gauge.end(self._meter.ended, len(self._in_flight))
        if self._order is Order.STOP:
            print(f"vllm-hpc: stopping: {counted(len(self._in_flight), 'row')} in flight left to the next attempt")
        self._report.leave_loop()

    def _run_probe(self) -> None:
        if self._probe and self._chief:
            self._chief.begin_probe()
        if self._probe:
            run_probe(self._engine, self._probe, self._report, self._probe_step)

    def _probe_step(self) -> list[Any]:
        return self._engine.step(lambda: None)[0]

    def _goes_on(self) -> bool:
        """Take one turn: a step and the work inside it. Returns whether another turn follows."""
        if self._in_flight:
            self._step()
        else:
            self._work()
        return self._order is not Order.STOP and (bool(self._in_flight) or not self._is_over())

    def _work(self) -> None:
        """Do the work that can overlap with the GPU: hand over, agree, admit."""
        self._hand_over()
        self._agree()
        self._admit()

    def _is_over(self) -> bool:
        return self._order is not Order.GO or (self._is_exhausted and not self._trials and not self._feed.backlog)

    def _agree(self) -> None:
        """Receive what the first rank decided a step ago, and ask again if due. It is due on all ranks at once.

        Only an engine with room for more rows than it holds waits for the answer.
        """
        if self._asked:
            self._hear(self._asked)
        while self._is_due():
            self._asked = self._ask()
            if self._in_flight and self._held >= self._most:
                return
            self._hear(self._asked)
            if not self._wants_chunk():
                return

    def _is_due(self) -> bool:
        if self._order is Order.STOP:
            return False
        return self._wants_chunk() or not self._in_flight or self._meter.steps >= self._asked_at + _AGREE_EVERY

    def _ask(self) -> Agreement:
        self._asked_chunk, self._asked_any = self._wants_chunk(), self._held < self._most
        self._asked_at = self._meter.steps
        self._report.enter(Phase.CLAIM)
        word = self._decide() if self._chief else None
        self._report.enter(Phase.AGREE)
        return self._lockstep.tell(word, self._meter.steps, self.digest.number, self._chunks.size)

    def _decide(self) -> Decision:
        assert self._chief is not None
        word = self._chief.decide(self._asked_chunk, self._asked_any)
        if word.chunk == NO_CHUNK:
            return word
        rows = self._chunks.rows(word.chunk)
        # The first rank may know more by now: rows of it that another task of the array had finished.
        return msgspec.structs.replace(word, done=bytes(self._done[row] for row in rows))

    def _hear(self, asked: Agreement) -> None:
        self._report.enter(Phase.AGREE)
        decision = asked.result()
        self._asked = None
        if decision.order is not self._order:
            self._order = decision.order
            self._meter.drain()
        if self._asked_chunk and decision.order is Order.GO:
            self._take_chunk(decision)

    @property
    def _held(self) -> int:
        """Rows in the engine, or on their way to it."""
        return len(self._in_flight) + self._feed.backlog

    def _wants_chunk(self) -> bool:
        is_open = self._order is Order.GO and not self._is_exhausted and not self._trials
        return is_open and self._held < self._most + (0 if self._is_part_used else 2 * self._ahead)

    def _take_chunk(self, decision: Decision) -> None:
        if decision.chunk == NO_CHUNK:
            self._is_part_used, self._is_exhausted = True, self._asked_any
            return
        rows = self._chunks.rows(decision.chunk)
        self._feed.put([row for row, is_done in zip(rows, decision.done, strict=True) if not is_done])

    def _admit(self) -> None:
        if self._order is not Order.GO:
            return
        if self._trials and not self._in_flight and not self._feed.backlog:
            self._begin_trial()
        admitted = 0
        while self._feed.backlog and admitted < _ADMITTED_AT_ONCE and len(self._in_flight) < self._most + self._ahead:
            admitted += 1
            self._report.enter(Phase.READ)
            item = self._feed.take()
            if isinstance(item, tuple):
                self._fail(*item)
                continue
            if not self._in_flight:
                self._meter.pause()
            key = str(item.row["index"])
            self._report.enter(Phase.ADMIT, key)
            try:
                self._engine.add_request(key, item)
            except Exception as error:  # noqa: BLE001 - whatever vLLM raises here belongs to this row
                self._fail(item.row, error)
            else:
                self._in_flight[key] = item
                self._sequences += _sequences(item)

    def _begin_trial(self) -> None:
        rows = self._trials.pop(0)
        if self._chief:
            self._chief.begin_trial(rows)
        self._feed.put(rows)

    def _step(self) -> None:
        self._report.enter(Phase.STEP)
        sequences = self._sequences
        self._meter.begin_step()
        outputs, is_work_done = self._engine.step(self._work_within)
        self._meter.end_step(sequences)
        for output in outputs:
            if output.finished:
                ready = self._in_flight.pop(output.request_id)
                self._sequences -= _sequences(ready)
                self._finished.append((ready, output))
                self._gauge.add(output)
        self._gauge.end_step(self._meter.ended, len(self._in_flight))
        if not is_work_done:
            self._work()

    def _work_within(self) -> None:
        self._work()
        self._report.enter(Phase.STEP)

    def _rescue(self) -> None:  # before an error is raised
        self._hand_over()

    def _hand_over(self) -> None:
        """Give the writer the rows that have finished."""
        finished, self._finished = self._finished, []
        for ready, output in finished:
            self._report.enter(Phase.WRITE)
            self.digest.add(ready.row["index"], token_ids(output))
            self._deliver(partial(self._engine.answer, ready, output, self._replica))

    def _fail(self, row: dict[str, Any], error: Exception) -> None:
        self._report.enter(Phase.WRITE)
        self.digest.add(row["index"], [])
        self._gauge.add_failed()
        self._deliver(partial(self._engine.failure, row, error))

    def _deliver(self, make: MakeRow) -> None:
        if self._writer:
            self._writer.put(make)


def _sequences(ready: Ready) -> int:
    return getattr(ready.params, "n", None) or 1
