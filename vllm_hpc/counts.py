"""How many rows a job has done, and how fast: from its replicas' counts, and at its end from the rows themselves."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.jobfolder import JobFolder, JobRecord, Progress, read_json, write_json


class Rows(msgspec.Struct, frozen=True):
    """Counts of rows: in the input, with a result, with an error."""

    total: int
    done: int = 0
    failed: int = 0

    @property
    def missing(self) -> int:
        """Rows that nothing is known of yet."""
        return self.total - self.done - self.failed


class Counted(msgspec.Struct, frozen=True):
    """state/counted.json: what a count of the shards found, and how large they were then."""

    sizes: dict[str, int]
    rows: Rows


class _Line(msgspec.Struct):
    """What is read of a shard's line."""

    index: int
    error: Any = None


def read_progress(folder: JobFolder, record: JobRecord) -> list[Progress]:
    """The counts of every replica that has begun."""
    found = (read_json(folder.progress(replica), Progress) for replica in range(record.plan.layout.dp))
    return [progress for progress in found if progress is not None]


def reported_rows(progress: list[Progress], record: JobRecord) -> Rows:
    """The counts that the replicas have written last, which is every second, and at their end if they had one."""
    return Rows(record.rows, sum(p.done for p in progress), sum(p.failed for p in progress))


def final_rows(folder: JobFolder, reported: Rows) -> Rows:
    """The counts of a job that has ended: a killed rank has not written its last, and NFS may show older ones.

    The shards are read only where rows seem to be missing, and once as long as they do not grow.
    """
    if not reported.missing:
        return reported
    try:
        counted = _count_once(folder, reported.total)
    except OSError:  # removed by its owner, or another user's: there is no more to know
        return reported
    return min(reported, counted, key=lambda rows: rows.missing)


def _count_once(folder: JobFolder, total: int) -> Rows:
    shards = folder.shard_files()
    sizes = {shard.name: shard.stat().st_size for shard in shards}
    known = read_json(folder.counted, Counted)
    if known is not None and known.sizes == sizes:
        return known.rows
    counted = Counted(sizes, _count(shards, total))
    with suppress(OSError):  # another user's folder, or a full disk: it is counted again next time
        write_json(folder.counted, counted)
    return counted.rows


def _count(shards: list[Path], total: int) -> Rows:
    """Each row once, and a result before an error, as collect does; what is no whole row is none."""
    decoder = msgspec.json.Decoder(_Line)
    has_result, has_error = bytearray(total), bytearray(total)
    for shard in shards:
        with shard.open("rb") as file:
            for line in file:
                try:
                    row = decoder.decode(line)
                except msgspec.DecodeError:
                    continue
                if line.endswith(b"\n") and 0 <= row.index < total:
                    (has_result if row.error is None else has_error)[row.index] = 1
    done = sum(has_result)
    return Rows(total, done, sum(error and not result for error, result in zip(has_error, has_result, strict=True)))


def current_speed(progress: list[Progress], rows: Rows) -> tuple[float | None, float | None]:
    """Output tokens per second now, and seconds left, both summed over the replicas."""
    now = time.time()
    spans = [(p, now - p.started_at) for p in progress if p.started_at and now > p.started_at]
    if not spans:
        return None, None
    tokens = sum(p.completion_tokens / span for p, span in spans)
    finished = sum((p.done + p.failed) / span for p, span in spans)
    return round(tokens, 1), round(rows.missing / finished, 1) if finished else None


def mean_speed(progress: list[Progress]) -> float | None:
    """Output tokens per second over the whole run."""
    spans = [p.updated_at - p.started_at for p in progress if p.updated_at > p.started_at > 0]
    tokens = sum(p.completion_tokens for p in progress)
    return round(tokens / max(spans), 1) if spans and max(spans) > 0 else None
