"""Durable rows: append-only shards in which every line is complete, and the counts beside them.

A thread writes, so that no step waits for a file system. Rows that it has not written when the rank is killed run
again.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.engine.health.disk_reserve import Reserve, explain_os_error
from vllm_hpc.engine.health.sample_file import SampleFile
from vllm_hpc.engine.health.watts import Watts
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.metrics import keep_metrics
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.records import Pace, Progress, Run, Sample
from vllm_hpc.jobfolder.shards import Tally
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.write_file import open_append

# Seconds between two updates of the counts.
_COUNT_S = 1.0
# Rows that may wait for a hanging file system before the engine waits too.
_MOST_WAITING = 100_000

MakeRow = Callable[[], Row]


class ShardWriter:
    """Writes the finished rows of one replica in one attempt.

    ``before`` has the counts of the replica's earlier attempts; ``describe`` makes this attempt's Run from rows, prompt
    and completion tokens; every ``sync_s`` seconds the written rows become durable, so a power cut loses no more.
    """

    def __init__(
        self, job: JobFolder, replica: int, attempt: int, before: Tally, describe: Callable[..., Run], sync_s: float
    ) -> None:
        self._job, self._replica, self._before = job, replica, before
        self._describe, self._sync_s = describe, sync_s
        self._reserve = Reserve(job.reserve(replica))
        self._reserve.take()
        self._file = self._open(job.shard(replica, attempt))
        self._size = os.fstat(self._file).st_size
        self._now, self._attempt, self._started_at = Tally(), attempt, time.time()
        earlier = read_json(job.progress(replica), Progress)
        self._runs = earlier.runs if earlier else ()
        self._queue: queue.Queue[MakeRow | None] = queue.Queue(_MOST_WAITING)
        self._error: BaseException | None = None
        self._samples, self._watts = SampleFile(job.samples(replica, attempt)), Watts()
        # The newest, which the loop gives, and the one that was written last.
        self._seen: tuple[Sample | None, Pace | None] = (None, None)
        self._told: Sample | None = None
        self._write_counts()
        self._thread = threading.Thread(target=self._work, name="vllm-hpc-writer", daemon=True)
        self._thread.start()

    def put(self, make: MakeRow) -> None:
        """Write the row that ``make`` returns. Raises the error that has ended the writer."""
        self.check()
        self._queue.put(make)

    def note(self, sample: Sample, pace: Pace | None) -> None:
        """Write what the replica does beside its counts, when these are written next. Never waits or raises."""
        self._seen = (sample, pace)

    def check(self) -> None:
        """Raise the error that has ended the writer, if any: OSError where the disk is full."""
        if self._error is not None:
            raise self._error

    def close(self, timeout: float | None = None) -> None:
        """Write the waiting rows and make them durable. Raises TimeoutError, or the error that has ended the writer."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:  # the file system hangs, and no more rows may wait
            timeout = 0.0
        self._thread.join(timeout)
        if self._thread.is_alive():
            raise TimeoutError("rows could not be written in time: the file system hangs")
        self.check()

    def _open(self, shard: Path) -> int:
        try:
            return open_append(shard)
        except OSError as error:
            self._reserve.give_back()
            raise explain_os_error(error) from None

    def _work(self) -> None:
        try:
            try:
                self._write_all()
            finally:  # before the error is raised: recording it needs the space
                self._reserve.give_back()
        except BaseException as error:  # noqa: BLE001 - raised on the main thread by check()
            self._error = error
            with suppress(queue.Empty):  # let whoever waits for a place in the queue continue, and get the error
                while True:
                    self._queue.get_nowait()

    def _write_all(self) -> None:
        synced = counted = time.monotonic()
        is_open = True
        while is_open:
            try:
                make = self._queue.get(timeout=_COUNT_S)
            except queue.Empty:
                pass
            else:
                is_open = make is not None
                if make is not None:
                    self._write(make())
            now = time.monotonic()
            if now - synced >= self._sync_s or not is_open:
                synced = now
                self._sync()
            if now - counted >= _COUNT_S or not is_open:
                counted = now
                self._write_counts()

    def _write(self, row: Row) -> None:
        """Append one complete row. If the disk is full, cut off the part that was written."""
        line = msgspec.json.encode(row) + b"\n"
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._file, self._size)
            raise explain_os_error(error) from None
        self._size += len(line)
        self._count(row)

    def _sync(self) -> None:
        """Make the written rows durable. This is where NFS reports that a quota is used up."""
        try:
            os.fsync(self._file)
        except OSError as error:
            raise explain_os_error(error) from None

    def _count(self, row: Row) -> None:
        if "error" in row:
            self._now.failed += 1
            return
        self._now.done += 1
        self._now.prompt_tokens += row.get("prompt_tokens", 0)
        self._now.completion_tokens += row.get("completion_tokens", 0)

    def _tell(self) -> tuple[Sample | None, Pace | None]:
        """The newest sample, also written to the file of samples if it is new."""
        sample, pace = self._seen
        if sample is None or sample is self._told:
            return self._told, pace
        self._told = msgspec.structs.replace(sample, watts=self._watts.read())
        self._seen = (self._told, pace) if self._seen[0] is sample else self._seen
        self._samples.add(self._told, is_last=pace is None)
        return self._told, pace

    def _write_counts(self) -> None:
        now, before = self._now, self._before
        sample, pace = self._tell()
        run = self._describe(now.done + now.failed, now.prompt_tokens, now.completion_tokens)
        progress = Progress(
            replica=self._replica,
            attempt=self._attempt,
            done=before.done + now.done,
            failed=before.failed + now.failed,
            prompt_tokens=before.prompt_tokens + now.prompt_tokens,
            completion_tokens=before.completion_tokens + now.completion_tokens,
            started_at=self._started_at,
            updated_at=time.time(),
            shard_bytes=self._size,
            runs=(*self._runs, run),
            now=sample,
            pace=pace,
        )
        with suppress(OSError):  # a full disk: the rows report it, and they matter more
            write_json(self._job.progress(self._replica), progress)
            keep_metrics(self._job, self._replica)
