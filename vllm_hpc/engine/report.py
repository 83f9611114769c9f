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

# What torch.distributed, gloo, NCCL and the store say when another rank is gone: that rank's end is the cause, and
# this only its echo. (An error of the file system, or of CUDA, is never one.)
_PEER_LOST = re.compile(
    r"connection (closed|reset|refused|was broken)( by (remote )?peer)?|broken pipe|ncclRemoteError"
    r"|remote process exited|communicator was aborted|gloo.*(timed out|timeout|failure)"
    r"|timeout caused pair closure"
    r"|wait timeout after|failed to (recv|send), got|\[.*gloo/transport.*\]",
    re.IGNORECASE,
)
_OF_TORCH_DISTRIBUTED = ("DistBackendError", "DistNetworkError", "DistStoreError", "DistError")


def is_echo(error: BaseException) -> bool:
    """Whether an error says no more than that another rank is gone."""
    if type(error).__name__ in _OF_TORCH_DISTRIBUTED:
        return True
    return type(error) is RuntimeError and bool(_PEER_LOST.search(str(error)))


def node_name() -> str:
    """This node as its scheduler calls it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


class RankReport:
    """Collects what is known of a rank and writes it whenever its outcome changes. Safe to use from two threads."""

    def __init__(self, job: JobFolder, rank: int, replica: int, attempt: int) -> None:
        self._job, self._rank, self._replica, self._attempt = job, rank, replica, attempt
        self._lock = threading.Lock()
        self._ended = False
        self.device, self.device_name = "unknown", ""
        self.device_gib: float | None = None
        self.digest: str | None = None
        self.rows = 0
        self.versions: dict[str, str] = {}
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

    def others_have_failed(self) -> bool:
        """Whether this attempt is over for the job: another rank has failed, or the script has ended."""
        return self._job.failed(self._attempt).exists() or self._job.exit_record(self._attempt).exists()

    def finished(self) -> RankRecord:
        """All rows are done."""
        return self._end(self._record("ok"))

    def failed(self, error: BaseException) -> None:
        """The rank dies of ``error``."""
        trace = "".join(traceback.format_exception(error))
        message = str(error) or type(error).__name__
        self._end(self._record("error", RankError(type(error).__name__, message, trace, is_echo(error))))

    def terminated(self, error: RankError | None = None) -> None:
        """The rank was told to leave, or lost what started it (``error``)."""
        self._end(self._record("terminated", error))

    def _end(self, record: RankRecord) -> RankRecord:
        with self._lock:
            if not self._ended:  # the first end is the true one: what follows are its consequences
                self._ended = True
                write_json(self._job.rank_record(self._rank), record)
                if record.outcome != "ok":
                    self._job.failed(self._attempt).touch()
        return record

    def _record(self, outcome: str, error: RankError | None = None) -> RankRecord:
        return RankRecord(
            rank=self._rank,
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
            timings=dict(self.timings),
            error=error,
        )
