"""A job's turn on this machine: its supervisor waits for it, tells the folder what it waits for, and gives it back."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.schedulers.local import this_process
from vllm_hpc.schedulers.local.machine import Gpu, Machine, this_machine
from vllm_hpc.schedulers.local.queue import Place, ticket_of, waits_for
from vllm_hpc.schedulers.local.setting import NO_QUEUE, most_at_once

# Seconds between two looks, and how much they grow with each job before this one.
_LOOK_S, _MORE_S, _MOST_S = 0.1, 0.1, 2.0
_VISIBLE, _ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"


class Turn:
    """A job's turn. Whoever makes it has a place in the queue from then on, unless there is no queue."""

    def __init__(self, job: JobFolder, record: JobRecord, job_id: str) -> None:
        self._job, self._record, self._job_id = job, record, job_id
        self._most = most_at_once()
        self._place = self._take_place()
        self._waits_for: str | None = None
        self.environment: dict[str, str] = {}
        self._tell("waiting for its turn on this machine" if self._place else "")

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What keeps its place as long as anybody has it open, for the job's script."""
        return (self._place.descriptor,) if self._place else ()

    def wait(self, signals: set[signal.Signals]) -> bool:
        """Wait until the job may start; False if one of ``signals`` ended the job before."""
        place, has_started = self._place, False
        if place is None:
            return True
        visible = self._visible(place.ticket.ranks)
        machine = this_machine(visible, has_gpus=place.ticket.line == "engines")
        pause = 0.0
        while not has_started:
            if pause and _is_told_to_end(signals, pause):
                return False
            try:
                answer = place.ask(machine, self._most)
            except OSError as error:  # somebody has cleaned up: whoever comes next cannot see this job either
                _note(error)
                break
            pause = _LOOK_S
            if answer is not None and answer.may_start:
                has_started = True
                self.environment = _shown(answer.gpus, machine, visible)
            elif answer is not None:
                pause = min(_LOOK_S + _MORE_S * answer.before, _MOST_S)
                self._tell(waits_for(place.ticket, machine, self._most, answer.before))
        self._tell("")
        return True

    def leave(self) -> None:
        """Make room for the next job."""
        if self._place:
            with suppress(OSError):
                self._place.leave()

    def _visible(self, ranks: int) -> str | None:
        """What CUDA_VISIBLE_DEVICES allows; of those that the job's own --env lists, its ranks use the first ones."""
        own = self._record.request.env.get(_VISIBLE)
        return os.environ.get(_VISIBLE) if own is None else ",".join(own.split(",")[:ranks])

    def _take_place(self) -> Place | None:
        """A place in the queue. None where there is no queue, or in a job of this machine, which has its part of it."""
        if self._most == NO_QUEUE or "VLLM_HPC_JOB_ID" in os.environ:
            return None
        try:
            return Place(ticket_of(self._job.path, self._record))
        except OSError as error:
            _note(error)
            return None

    def _tell(self, what: str) -> None:
        """Have the folder say what the job waits for; nothing, once it runs."""
        if what and what == self._waits_for:
            return
        try:
            write_json(self._job.supervisor, this_process(self._job_id, self._record.uuid, what))
        except OSError as error:
            if self._waits_for is None:
                raise  # without this record nobody can find the job
            print(f"vllm-hpc: cannot write {self._job.supervisor}: {error.strerror}", file=sys.stderr, flush=True)
        self._waits_for = what


def _shown(gpus: tuple[Gpu, ...], machine: Machine, visible: str | None) -> dict[str, str]:
    """The variables by which a job sees its GPUs alone; none if it may have all."""
    if len(gpus) == len(machine.gpus):
        return {}
    # In nvidia-smi's order: CUDA's own has the fastest first.
    order = {_ORDER: os.environ.get(_ORDER, "PCI_BUS_ID")} if visible is None else {}
    return {_VISIBLE: ",".join(gpu.name for gpu in gpus), **order}


def _is_told_to_end(signals: set[signal.Signals], pause: float) -> bool:
    seen = signal.sigtimedwait(signals, pause)
    return seen is not None and seen.si_signo in (signal.SIGTERM, signal.SIGINT)


def _note(error: OSError) -> None:
    """Say in the job's log that it does not wait for other jobs."""
    print(f"vllm-hpc: no queue on this machine: {error}: the job does not wait for others", file=sys.stderr, flush=True)
