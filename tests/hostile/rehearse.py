"""Answers a job's rows with the rehearsal's engine in this process, as its rank does: no launcher and no torch."""

from __future__ import annotations

import time
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rehearsal.engine import RehearsalEngine
from vllm_hpc.engine.rehearsal.faults import FaultPlan
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader
from vllm_hpc.jobfolder.records import Attempt, ExitRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.rehearsal import Rehearsal

# A row may ask for a billion tokens, which a rehearsal would make.
_MOST_TOKENS, _MOST_OUTPUTS = 16, 8


def answer_rows(path: Path) -> None:
    """Write what an attempt would leave: its shard and its records. Its engine may refuse the job's own sampling."""
    folder = JobFolder(path)
    record = folder.job()
    engine = RehearsalEngine(record, Rehearsal(), FaultPlan(None, None, None))
    try:
        make = engine.request_maker(record, writes=True)
    except (ValueError, msgspec.ValidationError):
        return _end(folder, 1)
    rows = InputReader(folder).rows(0, record.rows)
    lines = [msgspec.json.encode(_answer(engine, make, row)) + b"\n" for row in rows]
    folder.shard(0, 1).write_bytes(b"".join(lines))
    return _end(folder, 0)


def _answer(engine: RehearsalEngine, make: Any, row: Row) -> Row:
    """The row out, as the loop makes it: whatever goes wrong with a row is its own."""
    try:
        if "error" in row:
            raise ValueError(row["error"]["message"])
        ready: Ready = make(row)
        few = {"max_tokens": min(ready.params.max_tokens, _MOST_TOKENS), "n": min(ready.params.n, _MOST_OUTPUTS)}
        ready = msgspec.structs.replace(ready, params=msgspec.structs.replace(ready.params, **few))
    except Exception as error:  # noqa: BLE001 - as in engine/loop/row_prefetch.py
        return engine.failure(row, error)
    engine.add_request("0", ready)
    steps = (engine.step(lambda: None)[0] for _ in range(_MOST_TOKENS + 1))
    return engine.answer(ready, next(chain.from_iterable(steps)), 0)


def _end(folder: JobFolder, code: int) -> None:
    now = time.time()
    folder.attempt(1).write_bytes(msgspec.json.encode(Attempt(attempt=1, job_id="4711", host="node-1", started_at=now)))
    folder.exit_record(1).write_bytes(
        msgspec.json.encode(ExitRecord(attempt=1, exit_code=code, cause="exit", ended_at=now))
    )
