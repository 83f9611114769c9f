"""clean: removes what an ended job needs no more: of one that has COMPLETED its shards, of any the traces of its ranks.

No shard is removed before outputs.jsonl was read whole, row by row, and is on the disk. What is left serves status,
list, results, collect and show; and resume, which finds nothing to do. A job that has ended otherwise keeps its shards,
and whatever else its status and the next attempt are made of: after clean both are what they were before.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec

from vllm_hpc.jobfolder.cleaned import Cleaned, read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import own_folder
from vllm_hpc.jobfolder.private import is_private, private_files
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobfolder.shard_names import SHARD
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.disk_use import DiskUse
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.jobs.summary import Summary
from vllm_hpc.jobs.task_states import ALIVE_S, shows_life
from vllm_hpc.spec.errors import FailedError
from vllm_hpc.spec.read_file import open_regular

# What it may remove, by what reads it, and where it is. Names that this package does not make are the user's.
_GROUPS = {
    "shards": {"shards": SHARD},
    # The order in which rows run, and the rows in it.
    "order": {".": re.compile(r"order\.(json|rows)|input\.sorted\.(json|jsonl|jsonl\.zst)")},
    # Read while an attempt runs, by its own ranks and script.
    "traces": {
        "state": re.compile(
            r"heartbeat-\d+\.json|\.reserve-\d+|joined-\d+-\d+|failed-\d+|node-\d+-\d+|left-\d+-\d+"
            r"|doctor-(node-\d+-\d+|rank-\d+)\.json|doctor-shared-\d+"
        ),
        "state/claims": re.compile(".*"),
        "ranks": re.compile(r"\d+(_\d+)*_(submitted|result)\.pkl|\d+(_\d+)*_log\.(out|err)|submission_file_\w+\.sh"),
    },
    # The next attempt finds in them the rows that may have killed an engine, and status why rows are missing.
    "unfinished": {
        "state": re.compile(r"claimed-\d+\.\d+\.jsonl|crash-\d+\.\d+\.json|suspects-\d+\.json"),
        "control": re.compile(r"drain-\d+"),
    },
    # What people read, and 'clean --keep outputs' takes, too; status finds in the outcomes and logs why a job FAILED.
    "records": {"state": re.compile(r"env-\d+\.json|samples-\d+\.\d+\.jsonl")},
    "logs": {"logs": re.compile(r"rank-\d+\.log")},
    "outcomes": {"ranks": re.compile(r"rank-\d+\.json")},
}
_LONGEST_LINE = 256 << 20


class _Index(msgspec.Struct):
    """The part of an output row that says which it is; a line of an OpenAI batch has a custom_id instead."""

    index: int | None = None
    custom_id: object = None
    error: object = None


class _File(NamedTuple):
    """A file that may go, and what it was like before the job was known to have ended."""

    group: str
    path: Path
    size: int
    written_ns: int


class Freed(NamedTuple):
    """What was removed, and whether the job keeps its shards, because it has not COMPLETED."""

    use: DiskUse
    shards_stay: bool = False


def clean(job: JobFolder, only_outputs: bool = False, dry_run: bool = False) -> Freed:
    """Remove what an ended job needs no more, and return how much that was. ``only_outputs``: ranks' records, too.

    Collects a COMPLETED job first if its outputs.jsonl is not whole. ``dry_run`` only tells. Raises FailedError for a
    job that has not ended, or whose outputs are not whole, CollectError, RequestError for another user's job.
    """
    folder = own_folder(job, "clean")
    there = list(_removable(folder))  # first: what is written from now on may be another attempt's
    status = read_status(folder)
    if said := why_kept(folder, status):
        raise FailedError(said)
    is_complete = status.state == "COMPLETED"
    groups = _groups(status, only_outputs)
    found = [one for one in there if one.group in groups]
    if not dry_run and found:
        with private_files(is_private(folder.path)):
            if is_complete and status.has_rows:
                _keep_outputs(folder, status)
        for one in found:
            _remove(one)
        if is_complete:  # else the next attempt may be about to write into it
            with suppress(OSError):
                folder.claims.rmdir()
    return Freed(DiskUse(sum(one.size for one in found), len(found)), status.has_rows and not is_complete)


def why_kept(folder: JobFolder, status: Status) -> str:
    """Why a job must keep everything; empty if it need not."""
    if not status.is_final:
        return f"the job is {status.state}: clean it when it has ended"
    record = folder.job()
    lasts = [folder.last_attempt(task) for task in range(record.plan.layout.tasks)]
    without_end = [one for one in lasts if one is not None and folder.exit_of(one.attempt) is None]
    if any(shows_life(folder, record, one) for one in without_end):
        return f"the job is {status.state}, but a rank gave a sign of life in the last {ALIVE_S} s: clean it later"
    return ""


def ended_at(folder: JobFolder) -> float:
    """When the job ended, or was last heard of if that is not known (Unix seconds). Raises JobNotFoundError."""
    record, attempts = folder.job(), folder.attempts()
    ends = [ended.ended_at for one in attempts if (ended := folder.exit_of(one.attempt))]
    counts = folder.progress_of(range(record.plan.layout.lanes)) if len(ends) < len(attempts) else []
    return max([record.created_at, *ends, *(one.started_at for one in attempts), *(one.updated_at for one in counts)])


def _groups(status: Status, only_outputs: bool) -> set[str]:
    """What may go of a job that has ended so; without rows there are no outputs that could be all that is kept."""
    if status.state == "COMPLETED":
        always, asked = {"traces", "unfinished"}, {"records", "logs", "outcomes"}
        return always | ({"shards", "order"} | (asked if only_outputs else set()) if status.has_rows else set())
    asked = {"records"} if status.state == "FAILED" else {"records", "logs"}
    return {"traces"} | (asked if only_outputs and status.has_rows else set())


def _removable(folder: JobFolder) -> Iterator[_File]:
    """The files that may go; nothing is looked for behind a link."""
    for group, places in _GROUPS.items():
        for name, pattern in places.items():
            place = folder.path / name
            if not any(one.is_symlink() for one in (place, *place.parents) if folder.path in one.parents):
                yield from _files_in(group, place, pattern)


def _files_in(group: str, folder: Path, pattern: re.Pattern[str]) -> Iterator[_File]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # a job that runs renames its drafts
                    seen = entry.stat(follow_symlinks=False)
                    yield _File(group, Path(entry.path), seen.st_size, seen.st_mtime_ns)


def _remove(file: _File) -> None:
    """Remove it, unless it was written since it was found: by an attempt that somebody has begun."""
    with suppress(FileNotFoundError):
        if file.path.lstat().st_mtime_ns == file.written_ns:
            file.path.unlink(missing_ok=True)


def _keep_outputs(folder: JobFolder, status: Status) -> None:
    """Have outputs.jsonl whole and on the disk, and say so, before its shards go. Raises FailedError."""
    if read_cleaned(folder, status.rows.total):  # an earlier clean was interrupted: not all shards need be there
        if not _is_whole(folder, status):
            raise FailedError(f"{folder.outputs.name} is all that is left, and is not whole: nothing was removed")
        return
    summary = read_json(folder.summary, Summary)
    if summary is None or summary.uuid != folder.uuid or summary.state != status.state or not _is_whole(folder, status):
        summary = collect(folder)
        if not _is_whole(folder, status):
            raise FailedError(f"{folder.outputs.name} is not whole though it was just collected: nothing was removed")
    for path in (folder.outputs, folder.summary):
        _sync(path)
    record = Cleaned(
        rows=status.rows.total,
        prompt_tokens=summary.prompt_tokens,
        completion_tokens=summary.completion_tokens,
        cleaned_at=time.time(),
        uuid=folder.uuid,
    )
    write_json(folder.cleaned, record)
    _sync(folder.cleaned)


def _is_whole(folder: JobFolder, status: Status) -> bool:
    """Whether outputs.jsonl has a result for each row, in order: users edit it, and disks run full."""
    decoder, count = msgspec.json.Decoder(_Index), 0
    try:
        with open_regular(folder.outputs, follow_links=False) as file:
            while line := file.readline(_LONGEST_LINE):
                row = decoder.decode(line)
                if row.error is not None or not line.endswith(b"\n"):
                    return False
                if row.index != count and row.custom_id is None:
                    return False
                count += 1
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return count == status.rows.total


def _sync(path: Path) -> None:
    """Have what was written on the disk, and not only in this machine's memory. Raises OSError."""
    with open_regular(path, follow_links=False) as file:
        os.fsync(file.fileno())
