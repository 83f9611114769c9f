"""Damaged job folders: each file of a job that has ended is cut, emptied, replaced or changed."""

from __future__ import annotations

from random import Random

from tests.hostile.cases import DONE, Case, Edit
from tests.hostile.generate_values import json_bytes, value

# What a submission, the script, the ranks and collect leave, and what may come of a resume or a lost submission.
FILES = (
    "job.json", "job.json", "input.jsonl", "input.json", "script.sbatch", "lifecycle.sh", "state/submitted.json",
    "state/submitted.json", "state/exit-1.json", "state/progress-0.json", "state/heartbeat-0.json", "attempts/1.json",
    "attempts/2.json", "ranks/rank-0.json", "shards/replica-0.1.jsonl", "shards/replica-0.2.jsonl", "outputs.jsonl",
    "summary.json", "logs/scheduler.out", "logs/rank-0.log", "state/lost.json", "state/again.json", "state/retry.json",
    "state/counted.json", "state/cluster.json", "state/verdict-0.json", "state/suspects-0.json", "state/crash-0.1.json",
    "state/claimed-0.1.jsonl", "state/cannot-submit.json", "state/supervisor.json", "state/ending-1.json",
    "control/cancelled", "control/drain", "ranks/task.json", "state", "attempts", "shards", "ranks", "logs", "control",
    ".",
)  # fmt: skip
_HOW = (
    "truncate", "truncate", "empty", "binary", "remove", "folder", "fifo", "zeros", "away", "loop", "sparse", "json",
    "json",
    "json", "append", "write",
)  # fmt: skip
# Files that may have any length.
_LONG = (".jsonl", ".out", ".log")
_COMMANDS = (
    ("status", DONE), ("status", DONE, "--json"), ("status",), ("list",), ("list", "--json"), ("logs", DONE),
    ("logs", DONE, "--rank", "0"), ("collect", DONE), ("collect", DONE, "--json"), ("resume", DONE),
    ("resume", DONE, "--retry-errors"), ("resume", DONE, "--not-submitted"), ("cancel", DONE), ("status", "4711"),
)  # fmt: skip


def folder(random: Random) -> Case:
    """One or two files of a job are damaged, and two commands look at it or act on it."""
    edits = [_edit(random) for _ in range(random.choice((1, 1, 2)))]
    # The rows are read again where the outputs are gone.
    gone = [Edit(f"{DONE}/{name}", "remove") for name in ("outputs.jsonl", "summary.json") if random.random() < 0.5]
    return Case(tuple(random.sample(_COMMANDS, 2)), (*gone, *edits), has_job=True)


def _edit(random: Random) -> Edit:
    name, how = random.choice(FILES), random.choice(_HOW)
    if name in ("state", "attempts", "shards", "ranks", "logs", "control", "."):
        how = random.choice(("remove", "fifo", "loop", "empty", "away") if name != "." else ("loop", "fifo", "empty"))
    if how == "sparse" and name.endswith(_LONG):  # a terabyte of rows takes as long as that takes
        how = "binary"
    content = json_bytes(value(random)) + b"\n"
    return Edit(f"{DONE}/{name}".removesuffix("/."), how, content, random.randrange(1 << 30))  # type: ignore[arg-type]
