"""The queue of this machine: a user's jobs on the local scheduler wait in it for GPUs, or for memory and cores.

There is no daemon. Each job's supervisor has a ticket: a file in a folder of the user's on this machine, which it keeps
locked (flock). The names of tickets sort by submission, and a job starts when all before it have started and what it
needs is free. Who looks at tickets holds the door, a lock of its own. A lock falls with the processes that hold it,
also after kill -9: whoever looks next removes such a ticket. The job's script holds its ticket, too, for as long as
its ranks may still have the GPUs.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

import msgspec

from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.schedulers.local.machine import Gpu, Machine, free_gib
from vllm_hpc.schedulers.local.setting import SETTING
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.user_cache import machine_folder
from vllm_hpc.spec.words import counted
from vllm_hpc.spec.write_file import make_folder, open_append, open_new

# Cores that a rank computes with on the CPU: two engines on the same cores are each half as fast.
_CORES_A_RANK = 4
# A rehearsal hardly computes: so many a core at once.
_REHEARSALS_A_CORE = 4
_MOST_BYTES = 1 << 16


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A job in the queue, and what it needs; ``gib`` None: that is not known. ``gpus`` has the UUIDs that it got."""

    job: str
    line: Literal["engines", "rehearsals"]
    ranks: int
    gib: float | None = None
    has_started: bool = False
    gpus: tuple[str, ...] = ()


class Answer(NamedTuple):
    """Whether a job may start, and with which GPUs; else how many jobs are before it, that run or wait."""

    may_start: bool
    before: int = 0
    gpus: tuple[Gpu, ...] = ()


def ticket_of(job: Path, record: JobRecord) -> Ticket:
    """What a job needs: a GPU for each rank; on the CPU the memory that its plan reckons with."""
    ranks, memory = record.plan.layout.world_size, record.plan.memory
    parts = (memory.per_gpu_gib, memory.kv_gib_per_gpu)
    known = [part for part in parts if part is not None]
    line: Literal["engines", "rehearsals"] = "rehearsals" if record.request.rehearse else "engines"
    return Ticket(job=str(job), line=line, ranks=ranks, gib=ranks * sum(known) if len(known) == len(parts) else None)


class Place:
    """A job's place in the queue. Raises OSError where there can be none."""

    def __init__(self, ticket: Ticket, folder: Path | None = None) -> None:
        self._folder = folder or machine_folder() / "local-queue"
        make_folder(self._folder)
        # Locked before it has the name by which others find it: one that is not locked is removed.
        name = f"{time.time_ns():020}-{os.getpid()}.ticket"
        draft = self._folder / f".{name}.new"
        self._file = open_new(draft, 0o600, buffering=0)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.ticket, self.path = ticket, self._folder / name
        self._write(ticket)
        draft.rename(self.path)

    @property
    def descriptor(self) -> int:
        """The open ticket, which the job's script gets, too."""
        return self._file.fileno()

    def ask(self, machine: Machine, most: int | None = None) -> Answer | None:
        """Whether the job may start, and if so, note that it has; None: somebody else is at the door, ask again.

        ``most``: jobs that may run at once, whatever they need, but for GPUs.
        """
        with self._door() as is_open:
            if not is_open:
                return None
            others = list(self._others())
            mine = [(name, one) for name, one in others if most is not None or one.line == self.ticket.line]
            before = [one for name, one in mine if one.has_started or name < self.path.name]
            if not all(one.has_started for one in before):
                return Answer(may_start=False, before=len(before))
            answer = _answer(self.ticket, before, machine, most)
            if answer.may_start:
                uuids = tuple(gpu.uuid for gpu in answer.gpus)
                self._write(msgspec.structs.replace(self.ticket, has_started=True, gpus=uuids))
            return answer

    def leave(self) -> None:
        """Make room for the next job."""
        self.path.unlink(missing_ok=True)
        self._file.close()

    @contextmanager
    def _door(self) -> Iterator[bool]:
        """Be the only one who looks at tickets, for a moment; False if another process is."""
        with os.fdopen(open_append(self._folder / "door", 0o600), "ab") as door:
            try:
                fcntl.flock(door, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def _others(self) -> Iterator[tuple[str, Ticket]]:
        """The tickets of other jobs that are there, by name; those of dead supervisors are removed."""
        for path in sorted(self._folder.glob("*.ticket")):
            if path == self.path:
                continue
            with suppress(OSError, msgspec.DecodeError), open_regular(path, follow_links=False) as file:
                if _is_locked(file):
                    yield path.name, msgspec.json.decode(file.read(_MOST_BYTES), type=Ticket)
                else:
                    path.unlink(missing_ok=True)

    def _write(self, ticket: Ticket) -> None:
        self.ticket = ticket
        content = msgspec.json.encode(ticket)
        os.pwrite(self.descriptor, content, 0)
        os.ftruncate(self.descriptor, len(content))


def _is_locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


def _answer(mine: Ticket, running: list[Ticket], machine: Machine, most: int | None) -> Answer:
    """Whether a job whose turn it is may start beside those that run."""
    taken = {uuid for one in running for uuid in one.gpus}
    free = [gpu for gpu in machine.gpus if gpu.uuid not in taken]
    wanted = min(mine.ranks, len(machine.gpus))
    no = Answer(may_start=False, before=len(running))
    if len(free) < wanted or (most is not None and len(running) >= most):
        return no
    if machine.gpus or most is not None or _has_room(mine, running, machine):
        return Answer(may_start=True, gpus=tuple(free[:wanted]))
    return no


def _has_room(mine: Ticket, running: list[Ticket], machine: Machine) -> bool:
    """Whether a job fits in memory and cores beside those that run; the first always does."""
    if mine.line == "rehearsals":
        return len(running) < _REHEARSALS_A_CORE * machine.cores
    if not running:
        return True
    together = [mine, *running]
    needs = [one.gib for one in together if one.gib is not None]
    return (
        len(needs) == len(together)
        and sum(needs) <= machine.memory_gib
        and needs[0] <= free_gib()
        and sum(one.ranks for one in together) * _CORES_A_RANK <= machine.cores
    )


def waits_for(ticket: Ticket, machine: Machine, most: int | None, before: int) -> str:
    """What a job waits for, in words."""
    if ticket.line == "engines" and machine.gpus:
        what = "a GPU of this machine" if ticket.ranks == 1 else f"{ticket.ranks} GPUs of this machine"
    elif most is not None or ticket.line == "rehearsals":
        what = f"its turn ({SETTING} is {most})" if most is not None else "its turn among rehearsals"
    else:
        what = "memory and cores of this machine"
    return f"waiting for {what}" + (f": {counted(before, 'job')} before it" if before else "")
