"""collect: shards -> outputs.jsonl and summary.json.

Two passes, in bounded memory: the first notes where each row stands (17 bytes a row), the second follows the input
and copies lines. A torn last line is not a row; of a row in two shards, the lowest
attempt's wins, but a result wins over an error.
"""

from __future__ import annotations

import os
import time
from array import array
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from vllm_hpc.errors import CollectError
from vllm_hpc.jobfolder import (
    JobFolder,
    JobRecord,
    RankRecord,
    Submitted,
    read_json,
    temporary_name,
    write_json,
)
from vllm_hpc.rows import error_row, iter_jsonl
from vllm_hpc.state import read_ranks, read_status


class Counts(msgspec.Struct):
    """What collect found; rows and tokens."""

    total: int = 0
    done: int = 0
    failed: int = 0
    missing: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """summary.json. ``seconds`` from submission to the last attempt's end; ``timings`` in seconds too."""

    rows: dict[str, int]
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    tokens_per_s: float | None
    timings: dict[str, float]
    outputs: str
    state: str = "UNKNOWN"


class _Line(msgspec.Struct):
    """What collect reads of a shard's line; the rest is copied unread."""

    index: int
    error: Any = None
    prompt_tokens: int = 0
    completion_tokens: int = 0


def collect(folder: JobFolder) -> Summary:
    """Merge what the replicas have written so far. Raises CollectError, JobNotFoundError."""
    began = time.time()
    record = folder.job()
    shards = folder.shard_files()
    counts = Counts(total=record.rows)
    where, offsets = _locate(shards, counts)
    check_input(folder, record)
    temporary = temporary_name(folder.outputs)
    try:
        with ExitStack() as stack, temporary.open("wb") as out:
            _merge(folder, [stack.enter_context(shard.open("rb")) for shard in shards], where, offsets, out)
        # As old as our look at the shards: a row that came since makes it stale (Job.results).
        os.utime(temporary, (began, began))
        temporary.rename(folder.outputs)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CollectError(f"cannot write {folder.outputs}: {error.strerror}: nothing is lost, collect again") from None
    counts.missing = counts.total - counts.done - counts.failed
    summary = _summarise(folder, record, counts, time.time() - began)
    write_json(folder.summary, summary)
    return summary


def check_input(folder: JobFolder, record: JobRecord) -> None:
    """Refuse an input.jsonl that is not the one the job began with. Raises CollectError."""
    try:
        with folder.input.open("rb") as file:
            rows = sum(1 for _ in file)
    except OSError as error:
        raise CollectError(f"cannot read {folder.input}: {error.strerror}") from None
    if rows != record.rows:
        raise CollectError(f"{folder.input} has {rows} rows, and the job began with {record.rows}: was it edited?")


def _locate(shards: list[Path], counts: Counts) -> tuple[array[int], array[int]]:
    """For every index: number of its shard (-1: none) and the offset of its line there."""
    where, offsets = array("q", [-1]) * counts.total, array("q", [0]) * counts.total
    failed = bytearray(counts.total)
    decoder = msgspec.json.Decoder(_Line)
    for number, shard in enumerate(shards):
        offset = 0
        with shard.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    row = _decode(decoder, line, shard, counts.total)
                    if where[row.index] < 0 or (failed[row.index] and row.error is None):
                        where[row.index], offsets[row.index] = number, offset
                        _count(counts, row, replaces=bool(failed[row.index]))
                        failed[row.index] = row.error is not None
                offset += len(line)
    return where, offsets


def _decode(decoder: msgspec.json.Decoder[_Line], line: bytes, shard: Path, total: int) -> _Line:
    try:
        row = decoder.decode(line)
    except msgspec.DecodeError as error:
        raise CollectError(f"{shard} holds a line that no rank wrote ({error}): was it edited?") from None
    if not 0 <= row.index < total:
        raise CollectError(f"{shard} holds a row {row.index}, and the input has {total}: was it edited?")
    return row


def _count(counts: Counts, row: _Line, replaces: bool) -> None:
    """Count a row; one that ``replaces`` an error takes its place."""
    counts.failed -= replaces
    if row.error is not None:
        counts.failed += 1
        return
    counts.done += 1
    counts.prompt_tokens += row.prompt_tokens
    counts.completion_tokens += row.completion_tokens


def _merge(folder: JobFolder, shards: list[BinaryIO], where: array[int], offsets: array[int], out: BinaryIO) -> None:
    encoder = msgspec.json.Encoder()
    for row in iter_jsonl(folder.input):
        index = row["index"]
        if where[index] < 0:
            out.write(encoder.encode(error_row(row, "missing", "this row was not run")) + b"\n")
            continue
        shard = shards[where[index]]
        shard.seek(offsets[index])
        out.write(shard.readline())


def _summarise(folder: JobFolder, record: JobRecord, counts: Counts, seconds: float) -> Summary:
    ranks = read_ranks(folder, record)
    submitted = read_json(folder.submitted, Submitted)
    attempts = folder.attempts()
    exits = [folder.exit_of(attempt.attempt) for attempt in attempts]
    ended = max((record.ended_at for record in exits if record), default=None)
    timings = {}
    if attempts and submitted:
        timings["queue"] = max(0.0, round(attempts[0].started_at - submitted.submitted_at, 3))
    latest = {attempt.task: attempt.attempt for attempt in attempts}
    ranks = [rank for rank in ranks if rank.attempt in latest.values()]
    timings |= {name: _slowest(ranks, name) for name in ("import", "load", "generate")}
    timings["collect"] = round(seconds, 3)
    wall = ended - submitted.submitted_at if ended and submitted else None
    generate = timings["generate"]
    return Summary(
        rows={"total": counts.total, "done": counts.done, "failed": counts.failed, "missing": counts.missing},
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        seconds=round(wall, 3) if wall is not None else None,
        tokens_per_s=round(counts.completion_tokens / generate, 1) if generate else None,
        timings=timings,
        outputs=str(folder.outputs),
        state=read_status(folder).state,
    )


def _slowest(ranks: list[RankRecord], timing: str) -> float:
    """The last attempt's slowest rank decides."""
    return round(max((rank.timings.get(timing, 0.0) for rank in ranks), default=0.0), 3)
