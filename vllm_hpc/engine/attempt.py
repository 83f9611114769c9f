"""One attempt of a replica: what earlier ones left is taken up, and the loop gets its parts."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.interface import Engine
from vllm_hpc.engine.loop.chunk_claims import Chunks, Claims, Lease, LeaseClaims, StoreClaims
from vllm_hpc.engine.loop.leader import Chief
from vllm_hpc.engine.loop.lockstep import Lockstep
from vllm_hpc.engine.loop.loop import Digest, Loop
from vllm_hpc.engine.loop.row_prefetch import Feed
from vllm_hpc.engine.loop.step_timer import Meter
from vllm_hpc.engine.loop.suspect_rows import Prior, SuspectTrial, earlier_attempts, explain_suspects
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.spec.layout import Place

# A rank that is told to leave must be gone within 5 s.
_FLUSH_S = 3.0
# Rows that are ready ahead of their admission, as multiples of max_num_seqs: all in flight may finish in one step.
_READY = 2


class Start(msgspec.Struct, frozen=True):
    """What the first rank of a replica tells the others before the first step."""

    done: bytes
    groups: list[list[int]]


class EngineDiedError(RuntimeError):
    """The engine did not live through a row."""


class ReplicaAttempt:
    """This rank's part of an attempt; make it before the engine loads: earlier shards are read meanwhile."""

    def __init__(self, job: JobFolder, record: JobRecord, place: Place, attempt: int, task: int, sync_s: float) -> None:
        self._job, self._record, self._place, self._attempt, self._task = job, record, place, attempt, task
        self._sync_s = sync_s
        layout = record.plan.layout
        self._chunks = Chunks.of(record.rows, layout.dp, layout.is_array)
        self._prior: Future[Prior] | None = None
        if place.rank == 0:
            self._prior = ThreadPoolExecutor(1).submit(Prior, job, record)

    def run(self, engine: Engine, lockstep: Lockstep, store: Any, report: RankReport) -> Digest:
        """Run this replica's share of the rows and return the digest of what was generated."""
        prior = self._prior.result() if self._prior else None
        most = engine.max_num_seqs
        trial = self._judge(prior, most) if prior else SuspectTrial()
        start = Start(bytes(prior.rows) if prior else b"", trial.groups)
        start = msgspec.msgpack.decode(lockstep.share(msgspec.msgpack.encode(start)), type=Start)
        done = prior.rows if prior else bytearray(start.done)
        meter = Meter(self._attempt, most, dict(report.timings))
        writer = self._open_writer(prior, meter, report) if prior else None
        chief = self._appoint(prior, writer, store, report) if prior and writer else None
        make = engine.request_maker(self._record, writes=writer is not None)
        feed = Feed(InputReader(self._job), make, ahead=_READY * most)
        layout = self._record.plan.layout
        left = done.count(0) + sum(map(len, start.groups))
        # An array's other tasks may run later, or never.
        share = left if layout.is_array else -(-left // layout.dp)
        loop = Loop(
            engine, feed, lockstep, self._chunks, done, start.groups, share, self._place.replica,
            meter, report, chief, writer,
        )  # fmt: skip
        try:
            if writer:
                for row in trial.condemned:
                    writer.put(partial(self._condemn, engine, row))
            loop.run()
        except BaseException:
            report.on_leave()  # what can be written is; a full disk must not hide what ended the work
            raise
        finally:
            feed.close()
        if writer:
            writer.close()
        return loop.digest

    def _judge(self, prior: Prior, most: int) -> SuspectTrial:
        """What this replica runs alone; what the others of this world do is not left in the chunks either."""
        layout, mine = self._record.plan.layout, self._place.replica
        before = earlier_attempts(self._job, self._task, self._attempt)
        if not before:
            return SuspectTrial()
        prior.record(self._job, mine, before, self._chunks, most)
        replicas = [mine] if layout.is_array else range(layout.dp)
        trials = {replica: prior.judge(self._job, replica, before, self._chunks, most) for replica in replicas}
        prior.reserve(trials.values())
        return trials[mine]

    def _open_writer(self, prior: Prior, meter: Meter, report: RankReport) -> ShardWriter:
        replica = self._place.replica
        writer = ShardWriter(self._job, replica, self._attempt, prior.tally(replica), meter.run, self._sync_s)

        def flush() -> None:
            with suppress(OSError, TimeoutError):
                writer.close(_FLUSH_S)

        report.on_leave = flush
        return writer

    def _appoint(self, prior: Prior, writer: ShardWriter, store: Any, report: RankReport) -> Chief:
        layout, replica = self._record.plan.layout, self._place.replica
        claims: Claims = StoreClaims(store, self._chunks, prior, replica, layout.dp)
        if layout.is_array:
            mine = Lease(self._attempt, replica, report.rank)
            claims = LeaseClaims(self._job, self._chunks, mine, layout.dp, prior)
        return Chief(self._job, replica, self._attempt, self._record.request.lead_s, claims, writer, store)

    def _condemn(self, engine: Engine, index: int) -> dict[str, Any]:
        row = InputReader(self._job).rows(index, 1)[0]
        before = earlier_attempts(self._job, self._task, self._attempt)
        return engine.failure(row, EngineDiedError(explain_suspects(self._job, self._place.replica, before)))
