"""What somebody who watches a job wants to know at one moment: its status, what each replica does, what is wrong.

A View is drawn in three ways: for a terminal (api/terminal.py), as a card in a notebook (api/live.py), and as lines in
a pipe (``lines``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobs.replica_status import ReplicaStatus
from vllm_hpc.jobs.stage import is_drained
from vllm_hpc.jobs.status import Status
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted, duration, rate

if TYPE_CHECKING:
    from vllm_hpc.jobs.job import Job

# Seconds for which a replica is idle, or a job without a new token, before that is said: the first step of an engine
# may compile, and between two steps a replica may have no row.
_IDLE_S, _SILENT_S = 15.0, 90.0
# By this much a node's clock, or what a network file system shows, may be off.
_SKEW_S = 300.0
# A replica is a straggler below this share of the median speed.
_SLOW = 0.5
# Replicas that are named.
_NAMED = 8
# Seconds between two lines of a job that only gets on.
_LINE_S = 60.0


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A job at one moment. ``replicas``: of a job that runs, the worst first. ``alarms``: one line each.

    ``fit``: how its end compares with that of the walltime; empty if either is unknown. ``at``: Unix seconds.
    """

    status: Status
    replicas: tuple[ReplicaStatus, ...] = ()
    alarms: tuple[str, ...] = ()
    fit: str = ""
    at: float = 0.0

    @property
    def name(self) -> str:
        """The name of the job's folder."""
        return self.status.job.rstrip("/").rsplit("/", 1)[-1]


class Watcher:
    """Makes views of a job, one after another: how long something lasts is seen only so."""

    def __init__(self, folder: JobFolder) -> None:
        self._folder = folder
        self._since: dict[str, tuple[object, float]] = {}

    def view(self, status: Status) -> View:
        """The view of this status, which is its newest."""
        is_running = status.state == "RUNNING"
        replicas = status.replicas if is_running else ()
        is_draining = is_running and is_drained(self._folder, {one.attempt for one in replicas})
        alarms = [] if is_draining or not replicas else [*self._idle(status), *_stragglers(replicas)]
        silent = self._silent(status) if replicas else []
        return View(
            status=status,
            replicas=tuple(sorted(replicas, key=_badness)),
            alarms=(*silent, *alarms),
            fit=_fit(status, self._requeues()) if is_running else "",
            at=time.time(),
        )

    def _requeues(self) -> int:
        return self._folder.job().request.max_requeues or 0

    def _lasts(self, what: str, value: object) -> float:
        """Seconds for which it has had this value."""
        now = time.monotonic()
        before, since = self._since.get(what, (None, now))
        since = since if before == value else now
        self._since[what] = value, since
        return now - since

    def _idle(self, status: Status) -> list[str]:
        """Replicas without a row while there are rows that no other has taken."""
        most = [one.most_running or one.running or 0 for one in status.replicas]
        idle = []
        for one, own in zip(status.replicas, most, strict=True):
            others = sum(most) - own
            lasts = self._lasts(f"idle {one.replica}", one.running == 0 and status.rows.missing > others)
            if one.running == 0 and status.rows.missing > others and lasts >= _IDLE_S:
                idle.append((one.replica, lasts))
        if not idle:
            return []
        longest = duration(round(max(lasts for _, lasts in idle)))
        are = "is idle, its GPUs" if len(idle) == 1 else "are idle, their GPUs"
        return [f"{_named([one for one, _ in idle])} {are} have had nothing to do for {longest}"]

    def _silent(self, status: Status) -> list[str]:
        """A job that gets no further, or else the replicas that say nothing."""
        lasts = self._lasts("progress", (status.tokens, status.rows))
        newest = max(one.updated_at for one in status.replicas)
        if status.tokens is not None and lasts >= _SILENT_S:
            return [f"no new token and no new row for {duration(round(lasts))}: vllm-hpc debug says who waits for whom"]
        if time.time() - newest > _SKEW_S:
            return [f"no replica has said anything for {duration(round(time.time() - newest))}"]
        silent = [one.replica for one in status.replicas if newest - one.updated_at > _SILENT_S and one.running]
        have = "has" if len(silent) == 1 else "have"
        return [f"{_named(silent)} {have} said nothing for {duration(_SILENT_S)} and more"] if silent else []


def watch(job: Job, ask_every_s: float = 0.0) -> Iterator[tuple[View, float]]:
    """Views until the job ends, with the seconds to wait before the next one; see Job.statuses."""
    watcher = Watcher(job.folder)
    for status, pause in job.statuses(ask_every_s):
        yield watcher.view(status), pause


class Lines:
    """The lines that a pipe gets: one for each change, and one a minute for a job that only gets on."""

    def __init__(self) -> None:
        self._said, self._alarms, self._rows, self._at = "", set[str](), 0, time.monotonic()

    def new(self, view: View) -> list[str]:
        """What has not been said yet; nothing of the end, which has words of its own."""
        status, found = view.status, []
        if status.is_final:
            return []
        if (change := _change(status)) != self._said:
            self._said = change
            found.append(one_line(f"{status.state}: {status.reason}" if status.reason else status.state))
        kinds = {alarm.partition(" for ")[0] for alarm in view.alarms}  # how long is not news
        found += [f"Warning: {one}" for one in view.alarms if one.partition(" for ")[0] not in self._alarms]
        self._alarms = kinds
        finished, now = status.rows.done + status.rows.failed, time.monotonic()
        if finished != self._rows and now - self._at >= _LINE_S:
            self._rows, self._at = finished, now
            found.append(", ".join([rows_of(status), *speed_of(view)]))
        return found


def rows_of(status: Status) -> str:
    """How many rows are done, in words."""
    rows = status.rows
    total = f"{rows.total:,} row{'' if rows.total == 1 else 's'}"
    return f"{rows.done:,} of {total}" + (f", {rows.failed:,} with errors" if rows.failed else "")


def speed_of(view: View) -> list[str]:
    """Its speed, and when it ends, as far as they are known."""
    status = view.status
    eta = status.eta_s
    words = [f"{rate(status.tokens_per_s)} tokens/s"] if status.tokens_per_s else []
    if eta is not None:
        words.append(f"{duration(round(eta))} to go" + (f": {view.fit}" if view.fit else ""))
    return words


def _change(status: Status) -> str:
    """What counts as a change of status; Slurm's expected start, recomputed every minute, does not."""
    return f"{status.state}: {status.reason.partition(', expected to start')[0]}"


def _badness(one: ReplicaStatus) -> tuple[bool, float, int]:
    """Idle ones first, then the slow ones."""
    speed = one.tokens_per_s
    return (one.running != 0, float("inf") if speed is None else speed, one.replica)


def _stragglers(replicas: tuple[ReplicaStatus, ...]) -> list[str]:
    """Replicas under half of the median speed. One that has no rows is idle, not slow."""
    speeds = {one.replica: one.tokens_per_s for one in replicas if one.tokens_per_s is not None and one.running}
    middle = median(speeds.values()) if len(speeds) > 1 else 0.0
    slow = [replica for replica, speed in speeds.items() if speed < _SLOW * middle]
    if not slow:
        return []
    slowest, are = min(speeds[one] for one in slow), "is" if len(slow) == 1 else "are"
    return [f"{_named(slow)} {are} slow: {rate(slowest)} tokens/s, where the median is {rate(middle)}"]


def _named(replicas: list[int]) -> str:
    shown = ", ".join(map(str, sorted(replicas)[:_NAMED]))
    more = len(replicas) - _NAMED
    others = f" and {counted(more, 'other')}" if more > 0 else ""
    return f"replica {shown}" if len(replicas) == 1 else f"replicas {shown}{others}"


def _fit(status: Status, max_requeues: int) -> str:
    """Whether the rows that are left fit into the walltime that is left."""
    if status.eta_s is None or status.ends_at is None:
        return ""
    spare = status.ends_at - time.time() - status.eta_s
    if spare >= 0:
        return f"fits the walltime with {duration(round(spare))} left"
    follows = "it will be requeued" if status.attempts <= max_requeues else "'vllm-hpc resume' runs the rest"
    return f"ends {duration(round(-spare))} after the walltime: {follows}"
