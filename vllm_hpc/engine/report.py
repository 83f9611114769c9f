"""What a rank says of itself: ranks/rank-<r>.json, and its heartbeat."""

from __future__ import annotations

import os
import platform
import re
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from vllm_hpc.jobfolder import JobFolder, RankError, RankRecord, write_json

# What gloo, NCCL and the TCP store say when another rank is gone: that rank's end is the cause, this one an echo.
_PEER_LOST = re.compile(
    r"connection (closed by|reset|refused|was broken)|broken pipe|ncclRemoteError|ncclSystemError|socket timeout"
    r"|gloo.*(timed out|timeout)|TCPStore|remote process|peer",
    re.IGNORECASE,
)


class RankReport:
    """Collects what is known of a rank and writes it whenever its outcome changes. Safe to use from two threads."""

    def __init__(self, job: JobFolder, rank: int, replica: int, attempt: int) -> None:
        self._job, self._rank, self._replica, self._attempt = job, rank, replica, attempt
        self._lock = threading.Lock()
        self._ended = False
        self.device = "unknown"
        self.digest: str | None = None
        self.rows = 0
        self.timings: dict[str, float] = {}
        write_json(job.rank_record(rank), self._record("running"))

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Note the seconds that a part of the work takes."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = round(time.perf_counter() - began, 3)

    def heartbeat(self) -> None:
        """Say that this rank lives."""
        write_json(self._job.heartbeat(self._rank), {"rank": self._rank, "pid": os.getpid(), "time": time.time()})

    def finished(self) -> RankRecord:
        """All rows are done."""
        return self._end(self._record("ok"))

    def failed(self, error: BaseException) -> None:
        """The rank dies of ``error``."""
        trace = "".join(traceback.format_exception(error))
        message = str(error) or type(error).__name__
        is_echo = bool(_PEER_LOST.search(message)) and not isinstance(error, ValueError | AssertionError)
        self._end(self._record("error", RankError(type(error).__name__, message, trace, is_echo)))

    def terminated(self, error: RankError | None = None) -> None:
        """The rank was told to leave, or lost what started it (``error``)."""
        self._end(self._record("terminated", error))

    def _end(self, record: RankRecord) -> RankRecord:
        with self._lock:
            if not self._ended:  # the first end is the true one: what follows are its consequences
                self._ended = True
                write_json(self._job.rank_record(self._rank), record)
        return record

    def _record(self, outcome: str, error: RankError | None = None) -> RankRecord:
        return RankRecord(
            rank=self._rank,
            replica=self._replica,
            attempt=self._attempt,
            host=platform.node(),
            pid=os.getpid(),
            device=self.device,
            outcome=outcome,
            updated_at=time.time(),
            digest=self.digest,
            rows=self.rows,
            timings=dict(self.timings),
            error=error,
        )
