"""Jobs for the commands that list, show and clean: with rows, ended or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from tests.crafted import end, make_job, progress, result, start, write_lines
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import Submitted

Row = dict[str, Any]


def failed_row(index: int, message: str, kind: str = "ValueError") -> Row:
    """A row with an error as a rank writes it."""
    return {"index": index, "id": str(index), "error": {"type": kind, "message": message}}


def named_job(
    path: Path, rows: list[Row] | None = None, created_at: float = 1000.0, ends: bool = True, total: int = 3
) -> JobFolder:
    """A job with these rows out (default: a result for each), whose uuid is its name."""
    folder = make_job(path, total)
    write_json(folder.job_json, msgspec.structs.replace(folder.job(), created_at=created_at, uuid=path.name))
    write_json(folder.submitted, Submitted("local", "77-1000", created_at, uuid=path.name))
    write_lines(folder.shard(0, 1), [result(index) for index in range(total)] if rows is None else rows)
    start(folder)
    if ends:
        end(folder)
        failed = sum("error" in row for row in rows or [])
        progress(folder, total if rows is None else len(rows) - failed, failed)
    return folder
