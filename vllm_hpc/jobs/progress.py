"""Counts a job's rows and measures its speed: from its replicas' counts, and after its end from the shards."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord, Pace, Progress, Run
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_names import shard_numbers
from vllm_hpc.jobfolder.shards import Scan, beyond
from vllm_hpc.jobs.time_left import Lives, is_plausible, seconds_left
from vllm_hpc.spec.errors import FailedError, InputError

# A replica that has told nothing new for so many seconds, a long step, is slower than it was.
_SILENT_S = 5.0


class Rows(msgspec.Struct, frozen=True):
    """Counts of rows: in the input, with a result, with an error."""

    total: int
    done: int = 0
    failed: int = 0

    @property
    def missing(self) -> int:
        """Rows without a result or an error yet."""
        return self.total - self.done - self.failed


class CountError(FailedError):
    """The rows of a job cannot be counted; the message says why."""


class Counted(msgspec.Struct, frozen=True):
    """state/counted.json: the result of counting the shards, and their sizes at that time."""

    sizes: dict[str, int]
    rows: Rows


def read_progress(folder: JobFolder, record: JobRecord) -> list[Progress]:
    """The counts of every lane that has started."""
    return folder.progress_of(range(record.plan.layout.lanes))


def reported_rows(progress: list[Progress], record: JobRecord) -> Rows:
    """The latest counts of the replicas, which write them every second and at a clean end.

    Two tasks of an array may both have written and counted a row, so the sums are limited to the total.
    """
    summed = _summed(progress, record)
    done = min(summed.done, summed.total)
    return Rows(summed.total, done, min(summed.failed, summed.total - done))


def final_rows(folder: JobFolder, record: JobRecord, progress: list[Progress]) -> Rows:
    """The counts of a job that has ended: a killed rank did not write its last ones, and NFS may show older ones.

    The shards are read only if rows seem to be missing, if possible only from where the counts end; else whole, but
    only once unless they grow. Those of an array are always read whole: the sum of its tasks' counts does not show
    which rows two tasks both wrote. Raises CountError if a shard is refused or cannot be read.
    """
    if read_cleaned(folder, record.rows):
        return Rows(record.rows, record.rows)
    summed = _summed(progress, record)
    try:
        if record.plan.layout.is_array or summed.missing < 0:
            return _count_once(folder, record)
        if not summed.missing:
            return summed
        counted = _count_beyond(folder, record, progress, summed) or _count_once(folder, record)
    except FileNotFoundError:  # removed by its owner
        return reported_rows(progress, record)
    except OSError as error:
        raise CountError(f"its rows cannot be counted: {error.filename or folder.shards}: {error.strerror}") from None
    except InputError as error:
        raise CountError(f"its rows cannot be counted: {error}") from None
    return min(summed, counted, key=lambda rows: rows.missing)


def _summed(progress: list[Progress], record: JobRecord) -> Rows:
    return Rows(record.rows, sum(p.done for p in progress), sum(p.failed for p in progress))


def _count_beyond(folder: JobFolder, record: JobRecord, progress: list[Progress], reported: Rows) -> Rows | None:
    """``reported`` plus the rows that the replicas have written since, all of them new; None if unclear."""
    # The highest attempt of each lane.
    last = {folder.lane_of(shard): shard_numbers(shard).attempt for shard in folder.shard_files()}
    if not last.keys() <= {p.replica for p in progress}:
        return None
    done, failed, ids = reported.done, reported.failed, RowIds(folder)
    for p in progress:
        shard = folder.shard(p.replica, p.attempt)
        if last.get(p.replica) != p.attempt or p.shard_bytes is None or shard.lstat().st_size < p.shard_bytes:
            return None
        since = beyond(shard, p.shard_bytes, record.rows, record.request.rehearse, ids)
        done, failed = done + since.done, failed + since.failed
    return Rows(reported.total, done, failed) if done + failed <= reported.total else None


def shard_sizes(folder: JobFolder) -> dict[str, int]:
    """The size of each shard in bytes."""
    return {shard.name: shard.lstat().st_size for shard in folder.shard_files()}


def save_count(folder: JobFolder, counted: Counted) -> None:
    """Save a count for the next call."""
    if not folder.is_mine:  # whose job it is could not use it
        return
    with suppress(OSError):  # a full disk: the next call counts again
        write_json(folder.counted, counted)


def _count_once(folder: JobFolder, record: JobRecord) -> Rows:
    sizes = shard_sizes(folder)
    known = folder.read_kept(folder.counted, Counted)
    if known is not None and known.sizes == sizes:
        return known.rows
    counted = Counted(sizes, _count(folder, folder.shard_files(), record))
    save_count(folder, counted)
    return counted.rows


def _count(folder: JobFolder, shards: list[Path], record: JobRecord) -> Rows:
    """Count each row once, a result before an error, as collect does."""
    tally = Scan(shards, record.rows, record.request.rehearse, ids=RowIds(folder)).tally
    return Rows(record.rows, tally.done, tally.failed)


def current_speed(progress: list[Progress], rows: Rows, record: JobRecord) -> tuple[float | None, float | None]:
    """Output tokens per second and seconds left, from the last attempts of all replicas together.

    Of embeddings and the like, input tokens. Those of an earlier version tell no pace: then finished rows are counted.
    """
    told = [(one, one.pace) for one in progress if one.pace and is_plausible(one.pace)]
    if not told:
        return _speed_of_finished(progress, rows)
    rate = sum(speed_of(one) or 0.0 for one, _ in told)
    return round(rate, 1), _eta([pace for _, pace in told], progress, rows, record)


def speed_of(progress: Progress) -> float | None:
    """Tokens per second of a replica over the last minutes; None if it has told no pace. It falls while it hangs."""
    pace, now = progress.pace, progress.now
    if pace is None or now is None or not is_plausible(pace):
        return None
    # Both are by the clock of its host. A step may take a while.
    silent = progress.updated_at - now.at - _SILENT_S
    return round(pace.tokens / (pace.seconds + max(0.0, silent)), 1)


def _eta(paces: list[Pace], progress: list[Progress], rows: Rows, record: JobRecord) -> float | None:
    now = [one.now for one in progress if one.now is not None]
    finished, tokens = sum(one.rows for one in now), sum(one.tokens - one.in_flight for one in now)
    ended = sum(count for pace in paces for count, _ in pace.ended)
    begun = sum(count for pace in paces for count, _ in pace.begun)
    if not ended and not begun:  # embeddings, which have no length
        rate = sum(pace.tokens / pace.seconds for pace in paces)
        return round(rows.missing * tokens / finished / rate, 1) if min(finished, tokens, rate) > 0 else None
    if not rows.missing:
        return 0.0
    # Rows with errors take no time, rows with n outputs take n sequences.
    each = (ended + begun) / (max(0, finished) + begun / _outputs(record) or 1)
    lives = Lives(
        [group for pace in paces for group in pace.ended],
        [group for pace in paces for group in pace.begun],
        _whole(record.sampling.get("max_tokens")),
    )
    left = seconds_left(paces, max(0.0, rows.missing * each - begun), lives)
    return None if left is None else round(left, 1)


def _outputs(record: JobRecord) -> int:
    return _whole(record.sampling.get("n")) or 1


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _speed_of_finished(progress: list[Progress], rows: Rows) -> tuple[float | None, float | None]:
    now = time.time()
    spans = [(_last_run(p), now - p.started_at) for p in progress if p.started_at and now > p.started_at]
    if not spans:
        return None, None
    tokens = sum(run.completion_tokens / span for run, span in spans)
    # Rows with errors come first and take no time: until a row has a result, the speed of the others is unknown.
    finished = sum(run.rows / span for run, span in spans) if tokens else 0.0
    return round(tokens, 1), round(rows.missing / finished, 1) if finished > 0 else None


def mean_speed(progress: list[Progress]) -> float | None:
    """Output tokens per second of generation over all attempts, by the time of the slowest replica."""
    slowest = max(map(_generated_s, progress), default=0.0)
    return round(sum(p.completion_tokens for p in progress) / slowest, 1) if slowest > 0 else None


def _last_run(progress: Progress) -> Run:
    """The last attempt's share of a replica's counts; all of them if they are not split by attempt."""
    if not progress.runs:
        rows = progress.done + progress.failed
        return Run(attempt=progress.attempt, rows=rows, completion_tokens=progress.completion_tokens)
    last = progress.runs[-1]
    return last if last.attempt == progress.attempt else Run(attempt=progress.attempt)


def _generated_s(progress: Progress) -> float:
    if progress.runs:
        return sum(run.seconds.get("generate", 0.0) for run in progress.runs)
    return progress.updated_at - progress.started_at if progress.started_at > 0 else 0.0
