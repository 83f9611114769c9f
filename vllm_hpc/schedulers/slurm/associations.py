"""What Slurm's accounting says of this user: the accounts that they may charge, and the QOS that each has."""

from __future__ import annotations

import os
from typing import NamedTuple

from vllm_hpc.schedulers.client import Ask
from vllm_hpc.spec.ownership import user_name

_ASK = ("sacctmgr", "--noheader", "--parsable2", "show", "assoc", "format=Account,QOS")


class Association(NamedTuple):
    """One account of the user's, on one cluster or partition."""

    account: str
    qos: tuple[str, ...]


def ask_associations(ask: Ask) -> list[Association]:
    """Ask sacctmgr, which prints a line for each. Raises ClientError, as where there is no accounting."""
    rows = [line.strip().split("|") for line in ask([*_ASK, f"user={user_name(os.geteuid())}"]).splitlines()]
    return [
        Association(row[0], tuple(name for name in row[1].split(",") if name))
        for row in rows
        if len(row) > 1 and row[0]
    ]
