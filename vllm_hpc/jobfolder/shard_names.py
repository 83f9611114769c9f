"""The names of shards: replica-<d>.<k>.jsonl of replica d in attempt k, replica-<d>-<i>.<k>.jsonl of its lane i."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

# Of a whole name: replica, lane if there are several, attempt.
SHARD = re.compile(r"replica-(\d+)(?:-(\d+))?\.(\d+)\.jsonl")


class ShardNumbers(NamedTuple):
    """What a shard's name says; ``lane`` is 0 where a replica has one."""

    replica: int
    attempt: int
    lane: int


def shard_name(lane: int, lanes: int, attempt: int) -> str:
    """The shard of a lane, counted through all replicas, of which each has ``lanes``."""
    replica, own = divmod(lane, lanes)
    return f"replica-{replica}{f'-{own}' if lanes > 1 else ''}.{attempt}.jsonl"


def shard_numbers(shard: Path) -> ShardNumbers:
    """The numbers in the name of a shard."""
    found = _numbers(shard)
    assert found is not None, shard
    return found


def shards_among(files: Iterable[Path]) -> list[Path]:
    """The shards among these files, lowest attempt first."""
    found = [(numbers, file) for file in files if (numbers := _numbers(file))]
    return [file for _, file in sorted(found, key=lambda one: (one[0].attempt, one[0].replica, one[0].lane))]


def _numbers(file: Path) -> ShardNumbers | None:
    match = SHARD.fullmatch(file.name)
    return ShardNumbers(int(match[1]), int(match[3]), int(match[2] or 0)) if match else None
