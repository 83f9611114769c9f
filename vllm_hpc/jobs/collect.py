"""collect: merges the shards into outputs.jsonl and summary.json.

It takes two passes in bounded memory: the first records the place of each row (9 bytes a row, shards.py), the second
copies lines in input order (shard_lines.py). The input itself is read only for missing rows.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import msgspec

from vllm_hpc.jobfolder.batch_lines import output_line
from vllm_hpc.jobfolder.cleaned import read_cleaned
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.input import InputReader, check_size
from vllm_hpc.jobfolder.metrics import write_metrics
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.jobfolder.row_ids import RowIds
from vllm_hpc.jobfolder.shard_lines import LineReader
from vllm_hpc.jobfolder.shards import Scan
from vllm_hpc.jobs.artefacts import copy_artefacts
from vllm_hpc.jobs.collect_cleaned import check_not_cleaned, collect_cleaned
from vllm_hpc.jobs.output_folder import Outputs, find_outputs
from vllm_hpc.jobs.progress import Counted, Rows, save_count, shard_sizes
from vllm_hpc.jobs.summary import Summary, summarise, summarise_ranks
from vllm_hpc.rows.row import REHEARSED, Row, error_row
from vllm_hpc.spec.errors import CollectError, InputError
from vllm_hpc.spec.visible import in_utf8
from vllm_hpc.spec.write_file import replacing

# How many rows are copied at a time, and roughly how many bytes.
_MOST_ROWS, _MOST_BYTES = 2048, 1 << 21
_NOT_RUN = "this row was not run"


def collect(folder: JobFolder, output: str | os.PathLike[str] | None = None) -> Summary:
    """Merge the rows that the replicas have written so far, into the job's folder or the folder ``output``.

    Where the job has a program, ``output`` also gets its artefacts, and the ranks' records. Raises RequestError if that
    is another user's job and there is no ``output``, CollectError, JobNotFoundError.
    """
    record = folder.job()
    outputs = find_outputs(folder, output)
    summary = _collect(folder, record, outputs)
    if outputs.summary == folder.summary:
        with suppress(OSError):  # a full disk: the rows are there
            write_metrics(folder, summary.state)
    return summary


def _collect(folder: JobFolder, record: JobRecord, outputs: Outputs) -> Summary:
    if not record.has_rows:
        return _collect_ranks(folder, record, outputs)
    if read_cleaned(folder, record.rows):
        return collect_cleaned(folder, outputs)
    return _collect_rows(folder, record, outputs)


def _collect_rows(folder: JobFolder, record: JobRecord, outputs: Outputs) -> Summary:
    began = time.time()
    try:
        shards, sizes = folder.shard_files(), shard_sizes(folder)
    except OSError as error:
        raise _cannot_read(error) from None
    found = _scan(folder, shards, record)
    check_input(folder)
    try:
        with LineReader(shards) as lines, replacing(outputs.rows, buffering=1 << 20) as out:
            _merge(folder, found, lines, out, _rows_at_a_time(shards, record.rows))
            out.flush()
            # Dated before the scan of the shards, so that any later row makes it stale (Job.results).
            os.utime(out.fileno(), (began, began))
            tally, ignored = found.tally, dict(found.ignored)
            # So that 'status' need not count again.
            save_count(folder, Counted(sizes, Rows(record.rows, tally.done, tally.failed)))
            summary = summarise(folder, record, tally, time.time() - began)
            summary = msgspec.structs.replace(summary, outputs=in_utf8(str(outputs.rows)), ignored=ignored)
            check_not_cleaned(folder, record.rows)
            # Before the rows have their name: it says whose they are, and an interrupt must not leave them without.
            write_json(outputs.summary, summary)
    except OSError as error:
        raise CollectError(f"cannot write {outputs.rows}: {error.strerror}: nothing is lost, collect again") from None
    if record.program is not None:
        _copy_elsewhere(folder, outputs, summary)
    return summary


def _collect_ranks(folder: JobFolder, record: JobRecord, outputs: Outputs) -> Summary:
    """The summary of a job that runs no rows, and what its ranks have left."""
    summary = summarise_ranks(folder, record)
    try:
        # Before the copies: it says of which job they are.
        write_json(outputs.summary, summary)
    except OSError as error:
        raise CollectError(f"cannot write {outputs.summary}: {error.strerror}: collect again") from None
    _copy_elsewhere(folder, outputs, summary)
    return summary


def _copy_elsewhere(folder: JobFolder, outputs: Outputs, summary: Summary) -> None:
    if outputs.summary != folder.summary:
        copy_artefacts(folder, summary.artefacts, outputs.summary.parent)


def check_input(folder: JobFolder) -> None:
    """Refuse an input that has changed since the job was submitted. Raises CollectError."""
    try:
        check_size(folder)
    except InputError as error:
        raise CollectError(str(error)) from None


def _scan(folder: JobFolder, shards: list[Path], record: JobRecord) -> Scan:
    try:
        return Scan(shards, record.rows, record.request.rehearse, _refuse, ids=RowIds(folder))
    except InputError as error:
        raise CollectError(str(error)) from None
    except OSError as error:
        raise _cannot_read(error) from None


def _cannot_read(error: OSError) -> CollectError:
    return CollectError(f"cannot read {error.filename or 'a shard'}: {error.strerror}")


def _refuse(shard: Path, what: str) -> NoReturn:
    raise CollectError(f"{shard} contains {what}: was it edited?")


def _rows_at_a_time(shards: list[Path], total: int) -> int:
    size = sum(shard.lstat().st_size for shard in shards)
    return max(16, min(_MOST_ROWS, _MOST_BYTES * total // max(size, 1)))


def _merge(folder: JobFolder, found: Scan, lines: LineReader, out: BinaryIO, at_a_time: int) -> None:
    missing = _MissingRows(folder)
    for first in range(0, len(found.places), at_a_time):
        places = found.places[first : first + at_a_time]
        for is_there, run in groupby(places, bool) if 0 in places else [(True, iter(places))]:
            here = list(run) if 0 in places else places
            for data in lines.read(here) if is_there else missing.read(first, len(here)):
                out.write(_unwrap(data) if found.is_wrapped and is_there else data)
            first += len(here)


def _unwrap(data: bytes) -> bytes:
    """Replace each line of an OpenAI batch by the one within it."""
    return b"".join(map(output_line, io.BytesIO(data)))


class _MissingRows:
    """Output rows for rows that were not run; the input is opened when the first one is needed."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._mark = REHEARSED if folder.job().request.rehearse else {}
        self._reader: InputReader | None = None
        self._encoder = msgspec.json.Encoder()

    def read(self, first: int, count: int) -> Iterator[bytes]:
        """The lines of ``count`` rows, joined. Raises CollectError."""
        try:
            self._reader = self._reader or InputReader(self._folder)
            rows = self._reader.rows(first, count)
        except InputError as error:
            raise CollectError(str(error)) from None
        if len(rows) != count:
            raise CollectError(f"the input ends before row {first + count}: was it edited?")
        yield self._encoder.encode_lines([{**_missing_row(row), **self._mark} for row in rows])


def _missing_row(row: Row) -> Row:
    """An error row; for an OpenAI batch, a line as in its error file."""
    batch: Any = row.get("batch")
    if not isinstance(batch, dict) or "custom_id" not in batch:
        return error_row(row, "missing", _NOT_RUN)
    return {
        "id": f"batch_req_missing_{row['index']}",
        "custom_id": batch["custom_id"],
        "response": None,
        "error": {"code": "missing", "message": _NOT_RUN},
    }
