"""Which replica runs which rows: the input is cut into chunks, and every replica begins with its own part of them.

It takes chunks of another's part only when its own part is used up, and only as many rows as it has free slots for:
where all rows are of one length, a few rows more than another replica has cost a whole wave more. Inside one torchrun
world, counters in its store are enough. The tasks of a job array share no store, start when the scheduler lets them,
and may die alone: they take leases, which are files in the job folder. Only the first rank of a replica claims; the
others are told.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec

from vllm_hpc.engine.health.watchdog import DEAD_AFTER_S
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.records import read_json, temporary_name

# Chunks a replica should find, so that replicas end together (a lease is a file: an array's are fewer and larger), and
# the most rows of one: it is read ahead of its turn.
_CHUNKS_A_REPLICA, _LEASES_A_REPLICA = 128, 32
_LARGEST_CHUNK = 1024
_COUNTER = "vllm-hpc/claimed"


class Chunks(msgspec.Struct, frozen=True):
    """The input in chunks of ``size`` rows; the last may be shorter."""

    total: int
    size: int

    @classmethod
    def of(cls, total: int, replicas: int, is_array: bool) -> Chunks:
        """Chunks for that many rows and replicas."""
        if is_array:
            return cls(total, max(1, -(-total // (replicas * _LEASES_A_REPLICA))))
        return cls(total, max(1, min(_LARGEST_CHUNK, total // (replicas * _CHUNKS_A_REPLICA))))

    @property
    def count(self) -> int:
        """How many there are."""
        return -(-self.total // self.size)

    def rows(self, chunk: int) -> range:
        """The rows of a chunk."""
        return range(chunk * self.size, min(self.total, (chunk + 1) * self.size))

    def part(self, replica: int, replicas: int) -> range:
        """The chunks that a replica takes first."""
        return range(replica * self.count // replicas, (replica + 1) * self.count // replicas)


class Known(Protocol):
    """The rows that are known to be finished, 1 for each; ``learn`` adds those of a shard."""

    rows: bytearray

    def learn(self, shard: Path) -> None:
        """Read a shard that its writer has left."""


class Claims(Protocol):
    """Gives out chunks."""

    def take(self, any_part: bool = True) -> int | None:
        """Claim a chunk, of our part or, where that is used up, of any; None where none is free."""


class StoreClaims:
    """Counters in the store of this torchrun world, one for each part: they live and die with the attempt."""

    def __init__(self, store: Any, chunks: Chunks, known: Known, replica: int, replicas: int) -> None:
        self._store, self._chunks, self._known, self._mine = store, chunks, known, replica
        self._parts = {one: chunks.part(one, replicas) for one in range(replicas)}

    def take(self, any_part: bool = True) -> int | None:
        """Claim the next chunk of our part with a row left to run, in the input's order; then of the fullest other."""
        if (chunk := self._next(self._mine)) is not None or not any_part:
            return chunk
        while (fullest := self._fullest()) is not None:
            if (chunk := self._next(fullest)) is not None:
                return chunk
        return None

    def _next(self, part: int) -> int | None:
        chunks = self._parts.get(part, range(0))
        while chunks and (number := int(self._store.add(f"{_COUNTER}/{part}", 1)) - 1) < len(chunks):
            if not _is_done(self._chunks.rows(chunks[number]), self._known):
                return chunks[number]
        self._parts.pop(part, None)
        return None

    def _fullest(self) -> int | None:
        """The part that has the most chunks left."""
        left = {
            part: len(chunks) - int(self._store.add(f"{_COUNTER}/{part}", 0)) for part, chunks in self._parts.items()
        }
        fullest = max(left, key=left.__getitem__, default=None)
        return fullest if fullest is not None and left[fullest] > 0 else None


class Lease(msgspec.Struct, frozen=True):
    """claims/<chunk>.<n>: the n-th owner of a chunk. ``rank`` is its first one, which has the heartbeat."""

    attempt: int
    replica: int
    rank: int


class LeaseClaims:
    """Leases of an array's tasks. What a dead owner did not finish is taken over, under the next number."""

    def __init__(self, job: JobFolder, chunks: Chunks, mine: Lease, replicas: int, known: Known) -> None:
        self._job, self._chunks, self._mine, self._known = job, chunks, mine, known
        # Tasks that start together begin at different places, and so seldom reach for the same lease.
        self._part = chunks.part(mine.replica, replicas)
        self._order = [(self._part.start + number) % chunks.count for number in range(chunks.count)]
        self._dead: set[Lease] = set()
        job.claims.mkdir(exist_ok=True)

    def take(self, any_part: bool = True) -> int | None:
        """Claim a chunk that nobody has, or whose owner is dead."""
        owners = self._owners()
        for wanted in (False, True):  # first what is free, then what was left behind
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
            draft.write_bytes(msgspec.json.encode(self._mine))
            os.link(draft, target)  # whole, and by one taker only; on NFS too
        except FileExistsError:
            # NFS repeats a call whose answer was lost: the name may be there because we made it (man 2 open).
            return draft.stat().st_nlink > 1
        finally:
            draft.unlink(missing_ok=True)
        return True

    def _owners(self) -> dict[int, int]:
        """The newest lease's number of every chunk that has one."""
        found: dict[int, int] = {}
        for name in os.listdir(self._job.claims):  # noqa: PTH208 - names only, of some thousand files
            chunk, _, number = name.partition(".")
            if chunk.isdecimal() and number.isdecimal():
                found[int(chunk)] = max(found.get(int(chunk), 0), int(number))
        return found

    def _path(self, chunk: int, number: int) -> Path:
        return self._job.claims / f"{chunk}.{number}"

    def _is_left(self, path: Path) -> bool:
        """Whether a lease's owner is dead. If so, the rows that it had finished are learnt."""
        lease = read_json(path, Lease)
        if lease is None:  # it may be empty after a power cut: once it is old, it is nobody's
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
            # One of these rows may have killed its engine: the task comes back, and runs them one by one.
            return not (ended.cause == "requeue" and self._job.crash(lease.replica, lease.attempt).exists())
        return self._is_silent(self._job.heartbeat(lease.rank))

    def _is_silent(self, path: Path) -> bool:
        """Whether nobody has written a file for long."""
        now = time.time()
        with suppress(OSError):
            now = self._job.heartbeat(self._mine.rank).stat().st_mtime  # the same clock as the writer's
        try:
            return now - path.stat().st_mtime > DEAD_AFTER_S
        except FileNotFoundError:
            return True
        except OSError:  # a server that does not answer says nothing about the owner
            return False


def _is_done(rows: range, known: Known) -> bool:
    return 0 not in known.rows[rows.start : rows.stop]
