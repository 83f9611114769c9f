"""One attempt of a replica: reads what earlier attempts left, and builds the loop."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from vllm_hpc.engine.health.rank_record import RankReport
from vllm_hpc.engine.health.shard_writer import ShardWriter
from vllm_hpc.engine.interface import Engine, Ready
from vllm_hpc.engine.job_template import with_chat_template
from vllm_hpc.engine.loop.chunk_claims import Claims, Lease, LeaseClaims, StoreClaims
from vllm_hpc.engine.loop.lane_loop import LaneLoop
from vllm_hpc.engine.loop.leader import Chief, ReplicaRun
from vllm_hpc.engine.loop.loop import Digest, Gauges, Lead, Loop, Work
from vllm_hpc.engine.loop.probe import make_probe
from vllm_hpc.engine.loop.row_prefetch import Feed
from vllm_hpc.engine.loop.step_timer import Meter
from vllm_hpc.engine.loop.suspect_rows import Prior, SuspectTrial, earlier_attempts, explain_suspects
from vllm_hpc.engine.loop.verify import verified
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.jobfolder.chunks import Chunks, EvenChunks, OrderedChunks
from vllm_hpc.jobfolder.early_faults import needs_probe
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobfolder.row_order import OrderedInput, places_of, read_order
from vllm_hpc.spec.layout import Place
from vllm_hpc.spec.row_order import PREFIX

if TYPE_CHECKING:
    from vllm_hpc.engine.programs.rows import RowProgram
    from vllm_hpc.engine.startup.replicas import Replica

# A rank that is told to leave must be gone within 5 s.
_FLUSH_S = 3.0
# Rows made ready ahead of their admission, in multiples of max_num_seqs: all in flight may finish in one step.
_READY = 2


class Start(msgspec.Struct, frozen=True):
    """What the first rank of a replica tells the others before the first step."""

    done: bytes
    groups: list[list[int]]
    needs_probe: bool


class EngineDiedError(RuntimeError):
    """The engine did not survive a row."""


def _loop_for(program: RowProgram | None, replica: Replica) -> Callable[..., Loop]:
    """What makes the loop: one that hands rows to the program, if that takes any; one that meets other lanes."""
    if (lanes := replica.lanes()) is not None:
        return partial(LaneLoop, lanes)
    if program is None or not program.takes_rows:
        return Loop
    from vllm_hpc.engine.programs.rows import ProgramLoop

    return partial(ProgramLoop, program)


class _RunOrder:
    """The order in which the job's rows run, in chunks. Raises InputError."""

    def __init__(self, job: JobFolder, record: JobRecord) -> None:
        self._job, self._places, layout = job, array("I"), record.plan.layout
        self.chunks: Chunks = EvenChunks.of(record.rows, layout.lanes, layout.is_array)
        if record.plan.order == PREFIX:
            order, rows = read_order(job, record.rows)
            self.chunks, self._places = OrderedChunks(order, rows), places_of(rows)

    def reader(self) -> InputReader | OrderedInput:
        """What reads the rows; for one thread."""
        return OrderedInput(self._job, self._places) if self._places else InputReader(self._job)


class ReplicaAttempt:
    """This rank's part of its lane's attempt. Create it before the engine loads: earlier shards are read meanwhile."""

    def __init__(self, job: JobFolder, record: JobRecord, place: Place, attempt: int, task: int, sync_s: float) -> None:
        self._job, self._record, self._place, self._attempt, self._task = job, record, place, attempt, task
        self._sync_s = sync_s
        self._order = _RunOrder(job, record)
        self._chunks = self._order.chunks
        self._prior: Future[Prior] | None = None
        if place.lane_rank == 0:
            self._prior = ThreadPoolExecutor(1).submit(Prior, job, record)

    def run(
        self, engine: Engine, replica: Replica, store: JobStore, report: RankReport, program: RowProgram | None = None
    ) -> Digest:
        """Run this lane's share of the rows and return the digest of what was generated.

        ``program``: the user's, which takes the rows before they are written.
        """
        prior, lockstep = self._prior.result() if self._prior else None, replica.lockstep()
        most = engine.max_num_seqs
        trial = self._judge(prior, most) if prior else SuspectTrial()
        start = Start(bytes(prior.rows) if prior else b"", trial.groups, prior is not None and self._needs_probe())
        start = msgspec.msgpack.decode(lockstep.share(msgspec.msgpack.encode(start)), type=Start)
        done = prior.rows if prior else bytearray(start.done)
        gauges = Gauges(Meter(self._attempt, most, dict(report.timings)), report)
        lead = self._lead(prior, gauges, store) if prior else None
        takes_rows = program is not None and program.takes_rows
        make = engine.request_maker(with_chat_template(self._job, self._record), writes=lead is not None or takes_rows)
        feed = Feed(self._order.reader(), make, ahead=_READY * most)
        work = self._work(done, start.groups, make_probe(self._record, make) if start.needs_probe else None)
        engine = verified(engine, lockstep, report, self._place.replica, self._record.request.verify)
        loop = _loop_for(program, replica)(engine, feed, lockstep, work, gauges, lead)
        report.progress = lambda: (gauges.meter.steps, loop.digest.last)
        try:
            if lead:
                for row in trial.condemned:
                    lead.writer.put(partial(self._condemn, engine, row))
            loop.run()
        except BaseException:
            report.on_leave()  # writes what it can; a full disk must not hide the error that ended the work
            raise
        finally:
            feed.close()
        if lead:
            lead.writer.close()
        return loop.digest

    def _work(self, done: bytearray, trials: list[list[int]], probe: Ready | None) -> Work:
        left = done.count(0) + sum(map(len, trials))
        # An array's other tasks may run later, or never.
        share = -(-left // len(self._lanes))
        return Work(self._place.replica, self._chunks, done, trials, share, probe)

    def _needs_probe(self) -> bool:
        """Whether the last attempt died before it had finished a row."""
        before = earlier_attempts(self._job, self._task, self._attempt)
        return needs_probe(self._job, self._lanes, before)

    @property
    def _lanes(self) -> Sequence[int]:
        """The lanes of this world."""
        return self._record.plan.layout.lanes_of(self._task)

    def _lead(self, prior: Prior, gauges: Gauges, store: JobStore) -> Lead:
        writer = self._open_writer(prior, gauges)
        return Lead(self._appoint(prior, writer, store, gauges.report.rank), writer)

    def _judge(self, prior: Prior, most: int) -> SuspectTrial:
        """The rows that this replica runs on trial. Those of this world's other replicas leave the chunks, too."""
        mine = self._place.lane
        before = earlier_attempts(self._job, self._task, self._attempt)
        if not before:
            return SuspectTrial()
        prior.record(self._job, mine, before, self._chunks, most)
        trials = {one: prior.judge(self._job, one, before, self._chunks, most) for one in self._lanes}
        prior.reserve(trials.values())
        return trials[mine]

    def _open_writer(self, prior: Prior, gauges: Gauges) -> ShardWriter:
        lane = self._place.lane
        writer = ShardWriter(self._job, lane, self._attempt, prior.tally(lane), gauges.meter.run, self._sync_s)

        def flush() -> None:
            with suppress(OSError, TimeoutError):
                writer.close(_FLUSH_S)

        gauges.report.on_leave = flush
        return writer

    def _appoint(self, prior: Prior, writer: ShardWriter, store: JobStore, rank: int) -> Chief:
        layout, lane = self._record.plan.layout, self._place.lane
        claims: Claims = StoreClaims(store, self._chunks, prior, lane, layout.lanes)
        if layout.is_array:
            mine = Lease(self._attempt, lane, rank)
            claims = LeaseClaims(self._job, self._chunks, mine, layout.lanes, prior)
        return Chief(ReplicaRun(self._job, lane, self._attempt, self._record.request.lead_s), claims, writer, store)

    def _condemn(self, engine: Engine, index: int) -> dict[str, Any]:
        row = self._order.reader().rows(index, 1)[0]
        before = earlier_attempts(self._job, self._task, self._attempt)
        return engine.failure(row, EngineDiedError(explain_suspects(self._job, self._place.lane, before)))
