"""Looks for a drain, seldom enough for the file system that all nodes of all jobs share.

Whoever sees one tells the first ranks of the other replicas through the store. Each of them looks at the job folder
every second in its first minute, when a job is most likely to be stopped; then one on each node does every ten seconds.
A drain of the walltime is made by the job's script, which leaves a mark on its own node, too: there it is seen within a
second.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import NamedTuple

from vllm_hpc.engine.health.rank_record import node_name
from vllm_hpc.engine.store.client import JobStore
from vllm_hpc.jobfolder.folder import JobFolder

# Two keys: the walltime may come before a drain that a user asked for has ended.
_ASKED_KEY, _WALLTIME_KEY = "drain-asked", "drain-walltime"
# Seconds in which each rank looks whenever it is asked to, and then those between two looks of a node.
_FIRST_S, _PAUSE_S = 60.0, 10.0
# The longest time between two looks of a node: its ranks are asked to look each second.
_LATEST_S = _PAUSE_S + 1.0


class Seen(NamedTuple):
    """What was asked for so far. ``late_s``: how long ago the walltime's may have been made; None: there is none."""

    is_asked: bool
    late_s: float | None


class DrainWatch:
    """The eyes of a replica's first rank, for one attempt; ``store`` is where these ranks tell each other."""

    def __init__(self, job: JobFolder, attempt: int, store: JobStore) -> None:
        self._asked, self._walltime, self._store = job.drain, job.drain_attempt(attempt), store
        # lifecycle.sh makes it (drain_work).
        job_id = os.environ.get("VLLM_HPC_JOB_ID", "").replace("/", "-")
        self._local = Path(f"/tmp/vllm-hpc-drain-{job_id}-{attempt}")
        # How often this node has looked, and since when this rank knows it.
        self._looks_key, self._looks, self._since = f"looks/{node_name()}", 0, float("-inf")
        self._began = time.monotonic()

    def look(self) -> Seen:
        """Look where it is time to, and return what any of these ranks has seen."""
        now = time.monotonic()
        is_early = now - self._began < _FIRST_S
        if _is_own_folder(self._local):
            self._store.set(_WALLTIME_KEY, "0")
        elif is_early or self._has_turn(now):
            if self._walltime.exists():
                self._store.set(_WALLTIME_KEY, "0" if is_early else str(_LATEST_S))
            if self._asked.exists():
                self._store.set(_ASKED_KEY, "")
        asked, late_s = self._store.read([_ASKED_KEY, _WALLTIME_KEY])
        return Seen(asked is not None, None if late_s is None else float(late_s))

    def _has_turn(self, now: float) -> bool:
        """Whether this rank looks at the folder now: no rank of its node has for ten seconds.

        None is chosen for good, for any may have finished its rows before the others.
        """
        looks = self._store.add(self._looks_key, 0)
        if looks != self._looks:
            self._looks, self._since = looks, now
        if now - self._since < _PAUSE_S:
            return False
        self._looks, self._since = self._store.add(self._looks_key, 1), now
        return self._looks == looks + 1  # else another was faster


def _is_own_folder(path: Path) -> bool:
    """Whether it is a folder of this user: anybody may make files in /tmp."""
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()
