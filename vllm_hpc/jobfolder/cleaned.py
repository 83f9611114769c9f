"""state/cleaned.json: the shards of a COMPLETED job were removed, and its outputs.jsonl is all there is of its rows.

It is written before the first shard goes. Whoever reads shards asks for it: without them every row would be missing,
and be run again, or outputs.jsonl be written anew without it.
"""

from __future__ import annotations

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.bounds import RowCount


class Cleaned(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows the job has, all with a result, and their tokens. ``cleaned_at``: Unix seconds."""

    rows: RowCount
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cleaned_at: float
    uuid: str = ""


def read_cleaned(folder: JobFolder, rows: int) -> Cleaned | None:
    """The record of a job of that many rows; None if its shards are still what counts.

    Raises RequestError where the job is acted on, and others can write to the record.
    """
    found = folder.read(folder.cleaned, Cleaned)
    return found if found is not None and (found.rows, found.uuid) == (rows, folder.uuid) else None
