"""What became of every row: what the engines began and finished, by their witnesses, and what lies in the shards."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import msgspec

from vllm_hpc import Job
from vllm_hpc.rows.row import Row


class Counts(msgspec.Struct, frozen=True):
    """Of a job that was killed: how often work was done again.

    ``again``: rows begun in one attempt after another had begun them. ``most_lost``: the most rows that one attempt of
    a replica had begun and left without a line. ``unwritten``: of all that were lost, those whose text was complete.
    ``twice``: lines in the shards beyond one a row.
    """

    again: int
    most_lost: int
    unwritten: int
    twice: int


def count(job: Job) -> Counts:
    """Read the witnesses and the shards of a job that has ended."""
    begun: Counter[int] = Counter()
    lost, unwritten = [0], 0
    written = Counter(index for shard in job.folder.shard_files() for index in _indices(shard))
    layout = job.folder.job().plan.layout
    for file in (job.path / "state").glob("witness-*"):
        rank, attempt = map(int, file.name.removeprefix("witness-").split("."))
        shard = job.folder.shard(layout.place(rank).replica, attempt)
        mine = set(_indices(shard)) if shard.exists() else set()
        lines = file.read_text().split()
        started = {int(line[1:]) for line in lines if line.startswith("b")}
        ended = {int(line[1:]) for line in lines if line.startswith("f")}
        begun.update(started)
        lost.append(len(started - mine))
        unwritten += len(ended - mine)
    return Counts(
        sum(number - 1 for number in begun.values()), max(lost), unwritten, sum(n - 1 for n in written.values())
    )


def check_rows(job: Job, expected: list[tuple[Row, str]]) -> list[str]:
    """What is wrong with outputs.jsonl; nothing where every row is there once, in order, with the undisturbed text."""
    job.collect()
    rows = [json.loads(line) for line in job.folder.outputs.read_text(encoding="utf-8").splitlines()]
    if [row["index"] for row in rows] != list(range(len(expected))):
        return [f"outputs.jsonl has {len(rows)} lines for {len(expected)} rows, or not in order"]
    wrong = []
    for row, (given, text) in zip(rows, expected, strict=True):
        if row["id"] != given["id"] or "error" in row:
            wrong.append(f"row {row['index']}: {row.get('error') or 'another id'}")
        elif row["text"] != text:
            wrong.append(f"row {row['index']}: {row['text'][:40]!r} is not {text[:40]!r}")
    return wrong


def _indices(shard: Path) -> list[int]:
    """The rows of the whole lines."""
    return [json.loads(line)["index"] for line in shard.read_bytes().split(b"\n")[:-1]]
