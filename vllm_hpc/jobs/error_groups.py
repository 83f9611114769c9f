"""Groups the errors of a job's rows: a thousand rows often fail for three reasons."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.rows_so_far import Prompts, RowsSoFar
from vllm_hpc.rows.row import Row

# What differs between two errors of one kind: texts in quotes, addresses, numbers.
_DIFFERS = re.compile(
    r"(?P<text>(?<!\w)'[^']*'(?!\w)|\"[^\"]*\")|(?P<hex>\b0x[0-9a-fA-F]+|\b(?=\d*[a-f])[0-9a-f]{12,}\b)"
    r"|(?P<number>(?<![A-Za-z_\d])\d[\d,.]*(?<![,.]))"
)
_INSTEAD = {"text": "'...'", "hex": "0x...", "number": "N"}
_LONGEST, _AT_A_TIME, _MOST_GROUPS = 2000, 1024, 1000
# Where messages are too many to be kept apart.
_OTHERS = "(other messages)"


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Rows that failed alike: ``message`` has N, '...' and 0x... for what differs; the rest is of the first row."""

    type: str
    count: int
    message: str
    first_message: str
    first_id: Any
    first_index: int
    prompt: Any = None


class JobErrors(msgspec.Struct, frozen=True, kw_only=True):
    """What ``errors --json`` prints. ``missing``: rows without a result or an error so far."""

    job: str
    total: int
    failed: int
    missing: int
    groups: list[ErrorGroup]


def group_errors(folder: JobFolder) -> JobErrors:
    """The errors so far, the most frequent first. Raises RequestError for a job that runs no rows, FailedError."""
    rows = RowsSoFar(folder)
    first: dict[tuple[str, str], tuple[int, Any, str]] = {}
    counts: dict[tuple[str, str], int] = {}
    indices = list(rows.failed)
    for start in range(0, len(indices), _AT_A_TIME):
        some = indices[start : start + _AT_A_TIME]
        for index, row in zip(some, rows.outputs(some), strict=True):
            kind, message = error_of(row)
            key = (kind, normalised(message))
            if key not in counts and len(counts) >= _MOST_GROUPS:
                key = (kind, _OTHERS)
            first.setdefault(key, (index, row.get("custom_id", row.get("id")), message))
            counts[key] = counts.get(key, 0) + 1
    prompts = Prompts(folder)
    order = sorted(counts, key=lambda key: (-counts[key], first[key][0]))
    groups = [_group(key, counts[key], first[key], prompts) for key in order]
    return JobErrors(
        job=str(folder.path),
        total=rows.total,
        failed=len(indices),
        missing=rows.total - rows.finished,
        groups=groups,
    )


def _group(key: tuple[str, str], count: int, first: tuple[int, Any, str], prompts: Prompts) -> ErrorGroup:
    index, identity, message = first
    row = prompts.row(index) or {}
    return ErrorGroup(
        type=key[0],
        count=count,
        message=key[1] if count > 1 else message[:_LONGEST],
        first_message=message[:_LONGEST],
        first_id=identity,
        first_index=index,
        prompt=row.get("messages", row.get("prompt")),
    )


def error_of(row: Row) -> tuple[str, str]:
    """The type and the message of an output row's error, also of an OpenAI batch line."""
    found = row.get("error")
    if not found and isinstance(response := row.get("response"), dict) and isinstance(response.get("body"), dict):
        found = response["body"].get("error") or response["body"]
    if not isinstance(found, dict):
        return "error", str(found)
    return str(found.get("type") or found.get("code") or "error"), str(found.get("message") or found)


def normalised(message: str) -> str:
    """A message without what differs from row to row."""
    return _DIFFERS.sub(lambda found: _INSTEAD[found.lastgroup or ""], " ".join(message[:_LONGEST].split()))
