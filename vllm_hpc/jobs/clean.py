"""clean: removes what a job that has COMPLETED and was collected needs no more: its shards, and its ranks' traces.

Nothing is removed before outputs.jsonl was read whole, row by row, and is on the disk. What is left serves status,
list, results, collect and show; and resume, which finds nothing to do. Any other job keeps everything: its shards are
what resume and collect read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.cleaned import Cleaned, read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.own_folder import own_folder
from vllm_hpc.jobfolder.private import is_private, private_files
from vllm_hpc.jobfolder.record_files import read_json, write_json
from vllm_hpc.jobs.collect import collect
from vllm_hpc.jobs.disk_use import DiskUse
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.jobs.summary import Summary
from vllm_hpc.spec.errors import FailedError
from vllm_hpc.spec.read_file import open_regular

_SHARDS = re.compile(r"replica-\d+\.\d+\.jsonl")
# What only a run, or its resume, reads; and where. Names that this package does not make are the user's.
_TRACES = {
    "state": re.compile(
        r"heartbeat-\d+\.json|claimed-\d+\.\d+\.jsonl|crash-\d+\.\d+\.json|suspects-\d+\.json|\.reserve-\d+"
        r"|joined-\d+-\d+|failed-\d+|doctor-(node-\d+-\d+|rank-\d+)\.json|doctor-shared-\d+"
    ),
    "ranks": re.compile(r"\d+(_\d+)*_(submitted|result)\.pkl|\d+(_\d+)*_log\.(out|err)|submission_file_\w+\.sh"),
    "control": re.compile(r"drain-\d+"),
}
# What people read, and 'clean --keep outputs' takes, too.
_RECORDS = {
    "logs": re.compile(r"rank-\d+\.log"),
    "ranks": re.compile(r"rank-\d+\.json"),
    "state": re.compile(r"env-\d+\.json|samples-\d+\.\d+\.jsonl"),
}
_LONGEST_LINE = 256 << 20


class _Index(msgspec.Struct):
    """The part of an output row that says which it is; a line of an OpenAI batch has a custom_id instead."""

    index: int | None = None
    custom_id: object = None
    error: object = None


def clean(job: JobFolder, only_outputs: bool = False, dry_run: bool = False) -> DiskUse:
    """Remove what the job needs no more, and return how much that was. ``only_outputs``: ranks' logs and records, too.

    Collects the job first if its outputs.jsonl is not whole. ``dry_run`` only tells. Raises FailedError for a job that
    has not COMPLETED, or whose outputs are not whole, CollectError, RequestError for another user's job.
    """
    folder = own_folder(job, "clean")
    status = read_status(folder)
    if said := why_kept(status):
        raise FailedError(said)
    found = list(_removable(folder, status.has_rows, only_outputs))
    if not dry_run and found:
        with private_files(is_private(folder.path)):
            if status.has_rows:
                _keep_outputs(folder, status)
        for path, _ in found:
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.claims.rmdir()
    return DiskUse(sum(size for _, size in found), len(found))


def why_kept(status: Status) -> str:
    """Why a job must keep everything; empty if it need not."""
    if status.state == "COMPLETED":
        return ""
    if status.state in ("PENDING", "RUNNING", "UNKNOWN"):
        return f"the job is {status.state}: clean it when it has COMPLETED"
    return f"the job is {status.state}: what it has left is what 'vllm-hpc resume' and 'collect' read"


def ended_at(folder: JobFolder) -> float:
    """When the job ended, or was submitted if that is not known (Unix seconds). Raises JobNotFoundError."""
    ends = [ended.ended_at for one in folder.attempts() if (ended := folder.exit_of(one.attempt))]
    return max([folder.job().created_at, *ends])


def _removable(folder: JobFolder, has_rows: bool, only_outputs: bool) -> Iterator[tuple[Path, int]]:
    """The files and their sizes; nothing is looked for behind a link."""
    groups = [_TRACES, *([{"shards": _SHARDS}] if has_rows else []), *([_RECORDS] if only_outputs and has_rows else [])]
    for group in groups:
        for name, pattern in group.items():
            yield from _files_in(folder.path / name, pattern)
    yield from _files_in(folder.claims, re.compile(".*"))


def _files_in(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, int]]:
    if folder.is_symlink():
        return
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            if pattern.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                yield Path(entry.path), entry.stat(follow_symlinks=False).st_size


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
