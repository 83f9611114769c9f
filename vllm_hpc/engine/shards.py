"""Durable rows: append-only shards in which every line is whole, and the counts beside them."""

from __future__ import annotations

import os
import time

import msgspec

from vllm_hpc.jobfolder import JobFolder, Progress, write_json
from vllm_hpc.rows import Row

# Seconds between two fsyncs, and two updates of the counts: what a power cut may cost.
SYNC_S = 5.0
_COUNT_S = 1.0


class ShardWriter:
    """Writes the finished rows of one replica in one attempt. Raises OSError where the disk is full."""

    def __init__(self, job: JobFolder, replica: int, attempt: int, total: int) -> None:
        self._job = job
        self._file = os.open(job.shard(replica, attempt), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._encoder = msgspec.json.Encoder()
        now = time.time()
        self._progress = Progress(replica=replica, attempt=attempt, total=total, started_at=now, updated_at=now)
        self._synced = self._counted = time.monotonic()
        write_json(job.progress(replica), self._progress)

    def write(self, row: Row) -> None:
        """Append one row, whole, with one call to the kernel: a killed rank leaves no half line but its last."""
        line = self._encoder.encode(row) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError("a row was written in part: is the disk full, or the quota used up?")
        self._count(row)
        now = time.monotonic()
        if now - self._synced >= SYNC_S:
            self._synced = now
            os.fsync(self._file)
        if now - self._counted >= _COUNT_S:
            self._counted = now
            write_json(self._job.progress(self._progress.replica), self._progress)

    def close(self) -> None:
        """Make the rows and the counts durable."""
        try:
            os.fsync(self._file)
            write_json(self._job.progress(self._progress.replica), self._progress)
        finally:
            os.close(self._file)

    def _count(self, row: Row) -> None:
        before = self._progress
        self._progress = msgspec.structs.replace(
            before,
            done=before.done + ("error" not in row),
            failed=before.failed + ("error" in row),
            prompt_tokens=before.prompt_tokens + row.get("prompt_tokens", 0),
            completion_tokens=before.completion_tokens + row.get("completion_tokens", 0),
            updated_at=time.time(),
        )
