"""A question to all ranks of a job (control/debug-<n>), and the answers: each rank's own, or those of who can see it.

The watchdog's thread answers, whatever the main thread does. For a rank that does not answer, another of its node does,
or the node's torchrun agent.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Literal

import msgspec

from vllm_hpc.engine.health import device_use, flight_recorder, processes, stacks
from vllm_hpc.engine.health.rank_record import RankReport, node_name
from vllm_hpc.jobfolder.debug_records import DebugFiles, RankView
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import write_json
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.spec.write_file import make_folder

# Seconds in which a rank answers by itself, once its node has heard the question.
OWN_S = 2.0


class Witness:
    """What this rank can say of itself. Only the watchdog's thread uses it.

    ``has_program``: it runs the user's code, whose own lines may wait by the handle of a collective.
    """

    def __init__(self, report: RankReport, has_program: bool) -> None:
        self._report, self._has_program, self._sight = report, has_program, processes.Sight()

    def look(self) -> RankView:
        """Where the main thread is. It is kept for others of this node, who cannot ask a process that is stopped."""
        try:
            return self._look(self._has_program)
        except Exception as error:  # noqa: BLE001 - whoever only looks must not end the rank
            return self._blind(error)

    def _blind(self, error: Exception) -> RankView:
        phase = f"cannot look at itself: {type(error).__name__}"
        report = self._report
        return RankView(
            rank=report.rank, attempt=report.attempt, host=node_name(), pid=os.getpid(), source="rank", at=time.time(),
            phase=phase,
        )  # fmt: skip

    def _look(self, reads_source: bool) -> RankView:
        live = stacks.main_thread()
        report, mark = self._report, self._report.mark
        steps, last_row = report.progress()
        view = RankView(
            rank=report.rank,
            attempt=report.attempt,
            host=node_name(),
            pid=os.getpid(),
            source="rank",
            at=time.time(),
            phase=mark.phase.value if mark else report.doing,
            row=mark.row if mark else "",
            steps=steps,
            last_row=last_row,
            stack=live.stack,
            collective=report.gave_up or stacks.collective_of(live, report.first_rank, reads_source),
            address=os.environ.get("VLLM_HOST_IP", ""),
        )
        self._sight.keep(view)
        return view

    def examine(self, still_s: float) -> RankView:
        """The same with all that takes longer to find out."""
        process, waits_in = processes.state_of(os.getpid())
        return msgspec.structs.replace(
            self._look(reads_source=True),
            still_s=round(still_s, 1),
            threads=stacks.other_threads(),
            recorded=flight_recorder.last_collectives(self._report.rank - self._report.first_rank),
            process=process,
            waits_in=waits_in,
            cpu_percent=device_use.cpu_percent(),
            gpu=device_use.gpu_use(self._report.device),
            unreached=processes.unreached(),
        )


class Listener:
    """Hears questions, and answers for the ranks of this node that do not answer. Ask it every few seconds.

    ``here`` are the ranks of this node. ``mine`` answers for this rank; None on an agent, which is none.
    """

    def __init__(
        self, job: JobFolder, attempt: int, here: Iterable[int], mine: tuple[int, Callable[[], RankView]] | None
    ) -> None:
        self._job, self._files, self._attempt, self._here, self._mine = job, DebugFiles(job), attempt, here, mine
        self._answered = self._files.last_number()
        self._heard: dict[int, float] = {}

    def listen(self) -> None:
        """Answer what was asked since the last call; and, a little later, for those that have not."""
        with suppress(Exception):  # neither a full disk nor an odd process may end the watch
            for number in self._files.asked_since(self._answered):
                self._answered = number
                self._heard[number] = time.monotonic()
                make_folder(self._files.answers(number))
                self.answer(number)
            for number, heard_at in list(self._heard.items()):
                if time.monotonic() - heard_at >= OWN_S:
                    del self._heard[number]
                    self.answer_for_others(number)

    @property
    def is_waiting(self) -> bool:
        """Whether others have yet to answer."""
        return bool(self._heard)

    def answer(self, number: int) -> None:
        """This rank's own answer. Raises OSError."""
        if self._mine is not None:
            rank, examine = self._mine
            write_json(self._files.answer(number, rank), examine())

    def answer_for_others(self, number: int) -> None:
        """Answer for the ranks of this node that have not. Raises OSError."""
        source: Literal["neighbour", "agent"] = "agent" if self._mine is None else "neighbour"
        for record in self._silent(number):
            view = outside_view(record, source)
            if not self._files.answer(number, record.rank).exists():
                write_json(self._files.answer(number, record.rank), view)

    def _silent(self, number: int) -> Iterable[RankRecord]:
        host = node_name()
        for record in self._job.records_of(self._here):
            is_here = record.host == host and record.attempt == self._attempt and record.outcome == "running"
            if is_here and record.pid != os.getpid() and not self._files.answer(number, record.rank).exists():
                yield record


def outside_view(record: RankRecord, source: Literal["neighbour", "agent"]) -> RankView:
    """A rank of this node as others see it: by the kernel, by its last sight, and by its handler."""
    pid = record.pid
    kept, (process, waits_in) = processes.last_sight(pid), processes.state_of(pid)
    if kept is None or (kept.rank, kept.attempt) != (record.rank, record.attempt):
        # The process is gone, and its id may be another's by now.
        is_gone = process != "Z" and not _is_rank(pid)
        kept = RankView(
            rank=record.rank, attempt=record.attempt, host=record.host, pid=pid, source=source, at=time.time()
        )
        return msgspec.structs.replace(kept, process="gone" if is_gone else process, waits_in=waits_in)
    now = time.time()
    seen = msgspec.structs.replace(
        kept, source=source, at=now, seen_s=round(max(0.0, now - kept.at), 1), process=process, waits_in=waits_in,
        cpu_percent=device_use.cpu_percent(pid), native=processes.native_stacks(pid),
    )  # fmt: skip
    stack, threads = stacks.parse(processes.dump_of(pid))
    if stack:
        seen = msgspec.structs.replace(
            seen,
            stack=stack,
            threads=threads,
            seen_s=0.0,
            collective=stacks.collective_of(stacks.Live(stack)) or seen.collective,
        )
    return seen


def _is_rank(pid: int) -> bool:
    return processes.has_handler(pid)
