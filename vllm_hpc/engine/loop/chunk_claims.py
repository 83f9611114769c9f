"""Which replica runs which rows: the input is cut into chunks, and every replica starts with its own part of them.

It takes chunks from another's part only when its own is used up, and then only as many rows as it has free slots for:
if all rows have the same length, a few more rows than the other replicas have cost a whole extra wave. Inside one
torchrun world, counters in the job's store are enough. The tasks of a job array share no store, start whenever the
scheduler lets them, and may die alone, so they take leases, which are files in the job folder. Only a replica's first
rank claims, and tells the others.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

import msgspec

from vllm_hpc.engine.health.watchdog import DEAD_AFTER_S
from vllm_hpc.jobfolder.chunks import Chunks
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.spec.write_file import make_folder, open_new, temporary_name

_COUNTER = "claimed"


class Known(Protocol):
    """The rows that are known to be finished, 1 for each; ``learn`` adds those of a shard."""

    rows: bytearray

    def learn(self, shard: Path) -> None:
        """Read a shard whose writer is gone."""


class Claims(Protocol):
    """Gives out chunks."""

    def take(self, any_part: bool = True) -> int | None:
        """Claim a chunk of our own part or, if that is used up, of any part; None if none is free."""


class Counters(Protocol):
    """Where this world's replicas count together (engine/store)."""

    def add(self, key: str, amount: int) -> int:
        """Add to a counter, which begins at 0, and return what it is then."""


class StoreClaims:
    """Counters in the job's store, one for each part of this torchrun world; they last as long as the attempt."""

    def __init__(self, store: Counters, chunks: Chunks, known: Known, replica: int, replicas: int) -> None:
        self._store, self._chunks, self._known, self._mine = store, chunks, known, replica
        self._parts = {one: chunks.part(one, replicas) for one in range(replicas)}

    def take(self, any_part: bool = True) -> int | None:
        """Claim our part's next chunk that has rows left, in the input's order; then one of the fullest other part."""
        if (chunk := self._next(self._mine)) is not None or not any_part:
            return chunk
        while (fullest := self._fullest()) is not None:
            if (chunk := self._next(fullest)) is not None:
                return chunk
        return None

    def _next(self, part: int) -> int | None:
        chunks = self._parts.get(part, range(0))
        while chunks and (number := self._store.add(f"{_COUNTER}/{part}", 1) - 1) < len(chunks):
            if not _is_done(self._chunks.rows(chunks[number]), self._known):
                return chunks[number]
        self._parts.pop(part, None)
        return None

    def _fullest(self) -> int | None:
        """The part that has the most chunks left."""
        left = {part: len(chunks) - self._store.add(f"{_COUNTER}/{part}", 0) for part, chunks in self._parts.items()}
        fullest = max(left, key=left.__getitem__, default=None)
        return fullest if fullest is not None and left[fullest] > 0 else None


class Lease(msgspec.Struct, frozen=True):
    """claims/<chunk>.<n>: the n-th owner of a chunk. ``rank`` is its first one, which has the heartbeat."""

    attempt: int
    replica: int
    rank: int


class LeaseClaims:
    """Leases for an array's tasks. Another task takes over what a dead owner left, under the next number."""

    def __init__(self, job: JobFolder, chunks: Chunks, mine: Lease, replicas: int, known: Known) -> None:
        self._job, self._chunks, self._mine, self._known = job, chunks, mine, known
        # Tasks that start together begin at different chunks, so they seldom try the same lease.
        self._part = chunks.part(mine.replica, replicas)
        others = (
            number
            for other in range(1, replicas)
            for number in chunks.part((mine.replica + other) % replicas, replicas)
        )
        self._order = [*self._part, *others]
        self._dead: set[Lease] = set()
        make_folder(job.claims)

    def take(self, any_part: bool = True) -> int | None:
        """Claim a chunk that nobody has, or whose owner is dead."""
        owners = self._owners()
        for wanted in (False, True):  # first free chunks, then those of dead owners
            for chunk in self._order if any_part else self._part:
                number = owners.get(chunk, 0)
                if bool(number) is wanted and self._try(chunk, number):
                    return chunk
        return None

    def _try(self, chunk: int, number: int) -> bool:
        if number and not self._is_left(self._path(chunk, number)):
            return False
        if _is_done(self._chunks.rows(chunk), self._known):
            return False
        target = self._path(chunk, number + 1)
        draft = temporary_name(target)
        try:
            with open_new(draft, 0o644) as file:
                file.write(msgspec.json.encode(self._mine))
            os.link(draft, target)  # complete, and for one taker only; on NFS too
        except FileExistsError:
            # NFS repeats a call whose answer was lost: the name may exist because we made it (man 2 open).
            return draft.stat().st_nlink > 1
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _owners(self) -> dict[int, int]:
        """The number of the newest lease of every chunk that has one."""
        found: dict[int, int] = {}
        for name in os.listdir(self._job.claims):  # noqa: PTH208 - names only, of some thousand files
            chunk, _, number = name.partition(".")
            if chunk.isdecimal() and number.isdecimal():
                found[int(chunk)] = max(found.get(int(chunk), 0), int(number))
        return found

    def _path(self, chunk: int, number: int) -> Path:
        return self._job.claims / f"{chunk}.{number}"

    def _is_left(self, path: Path) -> bool:
        """Whether a lease's owner is dead. If so, reads which rows it had finished."""
        lease = read_json(path, Lease)
        if lease is None:  # it may be empty after a power cut: an old one has no owner
            return self._is_silent(path)
        if lease == self._mine:
            return False
        if lease not in self._dead and self._has_ended(lease):
            self._dead.add(lease)
            self._known.learn(self._job.shard(lease.replica, lease.attempt))
        return lease in self._dead

    def _has_ended(self, lease: Lease) -> bool:
        if lease.rank == self._mine.rank:
            return True  # an earlier attempt of this very task
        ended = self._job.exit_of(lease.attempt)
        if ended is not None:
            # One of these rows may have killed the engine: the task will run again, and try them in groups.
            return not (ended.cause == "requeue" and self._job.crash(lease.replica, lease.attempt).exists())
        return self._is_silent(self._job.heartbeat(lease.rank))

    def _is_silent(self, path: Path) -> bool:
        """Whether a file has not been written for a long time."""
        now = time.time()
        with suppress(OSError):
            now = self._job.heartbeat(self._mine.rank).stat().st_mtime  # the same clock as the writer's
        try:
            return now - path.stat().st_mtime > DEAD_AFTER_S
        except FileNotFoundError:
            return True
        except OSError:  # a server that does not answer says nothing about the owner
            return False


def _is_done(rows: Sequence[int], known: Known) -> bool:
    return all(map(known.rows.__getitem__, rows))
