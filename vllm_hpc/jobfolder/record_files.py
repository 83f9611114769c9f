"""Reads and writes the records of a job folder.

One that may be read while it is written is written under a temporary name and renamed. What is read is a regular file
of a bounded size: in a shared folder, anything may lie under its name.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vllm_hpc.jobfolder.records import JOB_RECORD_VERSION, Claimed, JobRecord, Version
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.ownership import NotMineError, WhyNot, read_mine, user_name, why_not_mine
from vllm_hpc.spec.read_file import MOST_BYTES, read_regular
from vllm_hpc.spec.write_file import replacing

T = TypeVar("T")


def read_json(path: Path, kind: type[T], most: int = MOST_BYTES) -> T | None:
    """Read a record, to look at it; None if it is missing or incomplete (its writer was killed), or no such file."""
    try:
        return _decode(read_regular(path, most, follow_links=False), kind)
    except OSError:
        return None


def read_own(path: Path, kind: type[T], why_not: WhyNot = why_not_mine) -> T | None:
    """Read a record to act on it; None if it is missing or incomplete.

    Raises RequestError if somebody else owns it or can write to it.
    """
    try:
        return _decode(read_mine(path, why_not), kind)
    except NotMineError as error:
        raise RequestError(str(error)) from None
    except OSError:
        return None


def _decode(content: bytes, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, RequestError, RecursionError):  # RequestError: from a version with other checks
        return None


def read_job(path: Path) -> JobRecord | None:
    """Read a job.json of this version or 0.1; None if it is missing, incomplete, or of a later version."""
    record = read_json(path, JobRecord)
    return record if record is not None and record.version <= JOB_RECORD_VERSION else None


def is_of_later_version(path: Path) -> bool:
    """Whether a job.json was written by a later vllm-hpc."""
    found = read_json(path, Version)
    return found is not None and found.version > JOB_RECORD_VERSION


def why_unreadable(path: Path) -> str:
    """Why ``read_job`` cannot read a job.json, and what to do."""
    if is_of_later_version(path):
        return "it was submitted by a newer vllm-hpc: use that version, or upgrade"
    try:
        msgspec.json.decode(read_regular(path, follow_links=False), type=JobRecord)
    except PermissionError:
        return why_closed(path.parent)
    except OSError as error:
        return f"its job.json cannot be read: {error.strerror}"
    except (msgspec.DecodeError, RequestError, RecursionError) as error:
        return f"its job.json is damaged ({error}): restore it, or remove the folder"
    return "its job.json was changed while it was read: try again"


def why_closed(folder: Path) -> str:
    """Why this user may not look into a job's folder, and what to do."""
    try:
        owner = user_name(folder.stat().st_uid)
    except OSError:
        owner = "its owner"
    return f"is closed to you (--private, or {owner}'s umask): ask {owner}"


def read_claimed(path: Path) -> list[Claimed]:
    """The complete lines of the file, none if it does not exist. A line torn by a full disk is skipped."""
    found, content = [], b""
    with suppress(FileNotFoundError):
        content = read_regular(path, follow_links=False)
    for line in content.split(b"\n")[:-1]:
        with suppress(msgspec.DecodeError, RecursionError):
            found.append(msgspec.json.decode(line, type=Claimed))
    return found


def write_json(path: Path, record: Any) -> None:
    """Write a record under a temporary name, then rename it, so that no reader sees half of it."""
    content = msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n"
    with replacing(path, 0o644) as file:  # an error, such as a full disk, keeps the old record
        file.write(content)
