"""A rank's own record: ranks/rank-<r>.json, and its heartbeat."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum

import msgspec

from vllm_hpc.engine.health.awake_clock import Still
from vllm_hpc.engine.health.error_words import message_of, trace_of
from vllm_hpc.engine.store.client import StoreLostError
from vllm_hpc.jobfolder.debug_records import Collective
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Crash, RankError, RankRecord
from vllm_hpc.spec.write_file import make_mark

# Messages of torch.distributed, gloo, NCCL and the store when another rank is gone: its end is the cause, and the error
# here only an echo. (Errors of the file system or CUDA are never echoes.)
_PEER_LOST = re.compile(
    r"connection (closed|reset|refused|was broken)( by (remote )?peer)?|broken pipe|ncclRemoteError"
    r"|remote process exited|communicator was aborted|gloo.*(timed out|timeout|failure)"
    r"|timeout caused pair closure"
    r"|wait timeout after|failed to (recv|send), got|\[.*gloo/transport.*\]",
    re.IGNORECASE,
)
_OF_TORCH_DISTRIBUTED = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


class Phase(Enum):
    """What a rank is doing in its loop.

    All but STEP happen between two steps of the engine, or in a step that has launched a batch but does not wait yet.
    """

    CLAIM = "claim rows"
    READ = "wait for a row to be read and prepared"
    ADMIT = "admit a row to the engine"
    STEP = "step"
    WRITE = "hand over finished rows"
    AGREE = "wait for the replica's other ranks"
    PROGRAM = "run the program's on_output"


class Mark(msgspec.Struct, frozen=True, eq=False):
    """What a rank has begun. Each mark is a new object, so a new mark shows progress."""

    phase: Phase
    row: str = ""


class PeerStalledError(TimeoutError):
    """This rank waited for others in vain; the cause is whatever blocks one of them."""


def is_echo(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone."""
    if isinstance(error, PeerStalledError | StoreLostError) or type(error).__name__ in _OF_TORCH_DISTRIBUTED:
        return True
    return type(error) is RuntimeError and bool(_PEER_LOST.search(str(error)))


def node_name() -> str:
    """This node's name, as its scheduler knows it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


class RankReport:
    """Collects a rank's record and writes it whenever its outcome changes. Safe to use from two threads."""

    def __init__(self, job: JobFolder, rank: int, replica: int, attempt: int) -> None:
        self._job, self.rank, self._replica, self._attempt = job, rank, replica, attempt
        self._lock = threading.Lock()
        self._ended = False
        self.device, self.device_name = "unknown", ""
        self.device_gib: float | None = None
        self.digest: str | None = None
        self.rows = 0
        self.versions: dict[str, str] = {}
        # vllm_patches: by name, "on", or why it is off.
        self.patches: dict[str, str] = {}
        # What the loop is doing; None before and after it.
        self.mark: Mark | None = None
        # What it does before and after: the part that is timed. For 'vllm-hpc debug', with the next: the steps of
        # the engine and the last row that finished; the ranks of this world and node; the global one of torch's rank 0.
        self.doing = "start"
        self.progress: Callable[[], tuple[int | None, int | None]] = lambda: (None, None)
        # What the user's code has waited for in vain, when it has given up and the others are asked.
        self.gave_up: Collective | None = None
        self.world = self.here = range(rank, rank + 1)
        self.first_rank = rank
        # The next rank of this world, watched from its first heartbeat on; None: there is no other.
        self.neighbour: int | None = None
        self._has_neighbour_begun = False
        self._neighbours_beat = Still()
        self.on_leave: Callable[[], None] = lambda: None
        # Where in a user's code an error came from, "file.py:12"; "" if it did not.
        self.locate: Callable[[BaseException], str] = lambda error: ""
        self.timings: dict[str, float] = {}
        self.heartbeat()  # before the record: from then on its neighbour expects one (has_silent_neighbour)
        write_json(job.rank_record(rank), self._record("running"))

    @property
    def job(self) -> JobFolder:
        """The job's folder."""
        return self._job

    @property
    def attempt(self) -> int:
        """The number of the attempt that this rank is a part of."""
        return self._attempt

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the seconds that a part of the work takes."""
        began, self.doing, before = time.perf_counter(), name, self.doing
        try:
            yield
        finally:
            self.doing = before
            self.timings[name] = round(time.perf_counter() - began, 3)

    def enter(self, phase: Phase, row: str = "") -> None:
        """Record that the loop begins something else, or another row."""
        self.mark = Mark(phase, row)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Restore the mark afterwards."""
        before = self.mark
        try:
            yield
        finally:
            self.mark = before

    def leave_loop(self) -> None:
        """Record that the loop is over: from now on this rank may wait a long time for others."""
        self.mark = None

    def heartbeat(self) -> None:
        """Write this rank's heartbeat."""
        write_json(self._job.heartbeat(self.rank), {"rank": self.rank, "pid": os.getpid(), "time": time.time()})

    def has_silent_neighbour(self, limit_s: float, now: float) -> bool:
        """Whether the neighbour's heartbeat is older than ours by ``limit_s``; both are by the file system's clock.

        It must also have been unchanged for as long by ``now``, the seconds in which this rank ran: if both were
        stopped, the first to wake must not take the other for dead.
        """
        if self.neighbour is None or not self._has_begun(self.neighbour):
            return False
        try:
            ours, theirs = (self._job.heartbeat(rank).stat().st_mtime for rank in (self.rank, self.neighbour))
        except OSError:
            return False
        is_silent = self._neighbours_beat.seconds(theirs, now) > limit_s and ours - theirs > limit_s
        return is_silent and not self._has_finished(self.neighbour)

    def _has_finished(self, neighbour: int) -> bool:
        """Whether the neighbour has ended well: a script's ranks do not wait for each other in the end."""
        record = read_json(self._job.rank_record(neighbour), RankRecord)
        return record is not None and record.outcome == "ok" and record.attempt == self._attempt

    def _has_begun(self, neighbour: int) -> bool:
        """Whether the neighbour takes part in this attempt: a heartbeat of an earlier one means nothing."""
        if not self._has_neighbour_begun:
            record = read_json(self._job.rank_record(neighbour), RankRecord)
            self._has_neighbour_begun = record is not None and record.attempt == self._attempt
        return self._has_neighbour_begun

    def others_have_failed(self) -> bool:
        """Whether this attempt is over for the job: another rank has failed, or the script has ended."""
        return self._job.failed(self._attempt).exists() or self._job.exit_record(self._attempt).exists()

    def finished(self) -> RankRecord:
        """Record that all rows are done."""
        return self._end(self._record("ok"))

    def failed(self, error: BaseException) -> None:
        """Record that the rank dies of ``error``."""
        trace, message = trace_of(error), message_of(error)
        if where := self.locate(error):
            message = f"{message} ({where})"
        if self.mark is not None and self.mark.phase is Phase.STEP and not where and not is_echo(error):
            # The next attempt will ask which row it was.
            crash = Crash(self.rank, type(error).__name__, message)
            write_json(self._job.crash(self._replica, self._attempt), crash)
        self._end(self._record("error", RankError(type(error).__name__, message, trace, is_echo(error))))

    def terminated(self, error: RankError | None = None, first: Callable[[], None] = lambda: None) -> None:
        """Record that the rank was told to leave, or lost what started it (``error``), after what is done ``first``.

        Meanwhile no other end is recorded: the main thread soon meets what follows from this one, such as a store that
        was torchrun's.
        """
        self._end(self._record("terminated", error), first)

    def _end(self, record: RankRecord, first: Callable[[], None] = lambda: None) -> RankRecord:
        with self._lock:
            is_first = not self._ended  # the first end is the cause; later ones are its consequences
            self._ended = True
            first()
            if is_first:
                write_json(self._job.rank_record(self.rank), record)
                if record.outcome != "ok":
                    make_mark(self._job.failed(self._attempt))
        return record

    def _record(self, outcome: str, error: RankError | None = None) -> RankRecord:
        return RankRecord(
            rank=self.rank,
            replica=self._replica,
            attempt=self._attempt,
            host=node_name(),
            pid=os.getpid(),
            device=self.device,
            device_name=self.device_name,
            device_gib=self.device_gib,
            outcome=outcome,
            updated_at=time.time(),
            digest=self.digest,
            rows=self.rows,
            versions=self.versions,
            patches=dict(self.patches),
            timings=dict(self.timings),
            error=error,
        )
