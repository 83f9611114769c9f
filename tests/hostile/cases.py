"""A hostile input as a value: the commands that are given, and what lies on the disk before they run.

A generator is a function of a random number generator: the same seed makes the same case, on every machine.
"""

from __future__ import annotations

from random import Random
from typing import Literal, NamedTuple

import msgspec

# What has run where it must not leaves this file.
CANARY = "CANARY"
# Where a case finds a job that has ended, if it wants one, and the folder above it.
JOBS, DONE = "runs", "runs/done"

How = Literal[
    "write", "truncate", "empty", "binary", "remove", "folder", "fifo", "zeros", "away", "loop", "sparse", "json",
    "append",
]  # fmt: skip


class Edit(NamedTuple):
    """What is done to a file of the case's desk: written, or damaged; ``content`` is what it is written with.

    ``truncate`` cuts it at a place that ``seed`` decides, ``json`` changes a value in it; ``zeros`` is a link to
    /dev/zero, ``away`` one out of the desk, ``loop`` one to itself, ``sparse`` a file of a terabyte with nothing in it.
    """

    path: str
    how: How = "write"
    content: bytes = b""
    seed: int = 0


class Case(msgspec.Struct, frozen=True):
    """Commands and the desk that they are run at, one after another.

    ``clients``: what the schedulers' clients are, as lines of sh, instead of ones that take everything. ``variables``:
    of the environment. ``secrets``: what must not stand in anything that is written or printed. ``has_job``: there is a
    job that has ended, runs/done. ``runs_script``: what is submitted is run, with nothing for its launcher to start.
    ``answers_rows``: its rows are answered by the rehearsal's engine, collected and looked at.
    """

    commands: tuple[tuple[str, ...], ...]
    edits: tuple[Edit, ...] = ()
    clients: dict[str, str] = {}
    variables: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    stdin: bytes = b""
    has_job: bool = False
    runs_script: bool = False
    answers_rows: bool = False


def some(random: Random, *items: str) -> tuple[str, ...]:
    """Some of these, in their order; at least one."""
    return tuple(item for item in items if random.random() < 0.5) or (random.choice(items),)
