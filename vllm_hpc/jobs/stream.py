"""The rows of a job as they finish, from any process that can read its folder.

A row is given once, when it has a result. Rows with errors come last, when the job has ended, for another attempt may
have a result for them; rows that never ran do not come at all.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator
from itertools import islice
from typing import TYPE_CHECKING

from vllm_hpc.jobfolder.new_rows import NewRows
from vllm_hpc.spec.errors import JobFailedError, RequestError

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job
    from vllm_hpc.jobs.status import Status
    from vllm_hpc.rows.row import Row

# Rows that are read in a thread at a time.
_AT_A_TIME = 256


def stream_rows(job: Job, timeout: float | None = None) -> Iterator[Row]:
    """Each row once. Raises RequestError, at once, if the job runs no rows; the iterator raises as ``_end`` does.

    It raises TimeoutError if the job has not ended ``timeout`` seconds after the first row was asked for.
    """
    return _rows(job, _reader(job), timeout)


def stream_rows_async(job: Job) -> AsyncGenerator[Row, None]:
    """The same for ``async for``: other tasks run while it waits."""
    return _rows_async(job, _reader(job))


def _reader(job: Job) -> NewRows:
    if not job.folder.job().has_rows:
        raise RequestError(f"{job.path.name} runs no rows: see its artefacts() and logs(rank)")
    return NewRows(job.folder)


def _rows(job: Job, reader: NewRows, timeout: float | None) -> Iterator[Row]:
    deadline = time.monotonic() + timeout if timeout is not None else float("inf")
    given = 0
    # The state first, then the rows: what has ended before they are read writes no more of them.
    for status, pause in job.statuses():
        for row in _now(reader, status):
            given += 1
            yield row
        if status.is_final:
            _end(job, status, given)
            return
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{job.path.name} is still {status.state} after {timeout:g} s")
        time.sleep(min(pause, left))


async def _rows_async(job: Job, reader: NewRows) -> AsyncGenerator[Row, None]:
    import asyncio  # imported here: it would be half the import time of 'vllm-hpc status'

    looks, given = job.statuses(), 0
    while True:
        status, pause = await asyncio.to_thread(next, looks)
        rows = _now(reader, status)
        while some := await asyncio.to_thread(_some, rows):
            for row in some:
                given += 1
                yield row
        if status.is_final:
            _end(job, status, given)
            return
        await asyncio.sleep(pause)


def _now(reader: NewRows, status: Status) -> Iterator[Row]:
    yield from reader.results()
    if status.is_final:
        yield from reader.rest()


def _some(rows: Iterator[Row]) -> list[Row]:
    return list(islice(rows, _AT_A_TIME))


def _end(job: Job, status: Status, given: int) -> None:
    """Raise JobFailedError for a job that failed without a single row, as results() does."""
    if status.state == "FAILED" and not given:
        raise JobFailedError(f"{job.path.name} failed: {status.reason}")
