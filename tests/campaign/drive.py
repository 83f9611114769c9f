"""One setting of a campaign: its job is submitted, killed again and again, resumed where it has ended, and checked."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import msgspec

from tests.campaign.rows import ENGINE, IN_FLIGHT, PACE, SAMPLING
from tests.campaign.settings import Draw, Setting
from tests.campaign.targets import Node, find, of_attempt, strike
from tests.campaign.witnesses import check_rows, count
from tests.real_jobs import processes_of, submit_tiny
from vllm_hpc import Job
from vllm_hpc.jobs.status import Status
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.errors import FailedError

_WITNESS = Path(__file__).parent / "witness"
_POLL_S, _ASK_S = 0.1, 2.0
# How long a requeued job must wait. One that begins in the second in which it was ended is refused by its node, for its
# credential is revoked. And what a killed node has not answered, slurmctld sends again after 60 s (RPC_RETRY_INTERVAL
# in its source): a kill, say, which then hits whatever step of that name has begun since.
_REVOKED_S, _RETRIED_S = 3.0, 65.0


class HungError(Exception):
    """Nothing has happened in a job for longer than the limit."""


class Kill(msgspec.Struct, kw_only=True):
    """A kill that was carried out. ``recovery_s``: until the next row was written, where no other kill came first."""

    target: str
    signal: str
    moment: str
    job: int
    attempt: int
    task: int
    at: float
    gone_s: float | None = None
    recovery_s: float | None = None


class Result(msgspec.Struct, kw_only=True):
    """What became of a setting; all is well where there are no ``problems``."""

    setting: str
    kills: list[Kill] = []
    jobs: int = 0
    attempts: int = 0
    resumes: int = 0
    rows: int = 0
    again: int = 0
    most_lost: int = 0
    unwritten: int = 0
    twice: int = 0
    seconds: float = 0.0
    problems: list[str] = []


class Drive:
    """Runs a setting, with a rehearsal where ``model`` is None.

    A job that ends before all kills are done is followed by another.
    """

    def __init__(
        self,
        setting: Setting,
        draws: list[Draw],
        model: Path | None,
        expected: list[tuple[Row, str]],
        work: Path,
        limit_s: float,
    ) -> None:
        self._setting, self._draws, self._model, self._expected = setting, list(draws), model, expected
        self._work, self._limit_s = work, limit_s
        self._result = Result(setting=setting.name)
        self._asked_at = self._alive_at = 0.0
        self._seen: object = None
        self._impatience = _Impatience()

    def run(self) -> Result:
        """Carry out every kill, and say what became of the rows."""
        began = time.monotonic()
        while self._draws and not self._result.problems:
            self._result.jobs += 1
            self._job = self._submit()
            self._dead: set[int] = set()
            try:
                self._live_through()
                self._check()
            except HungError as error:
                self._result.problems.append(f"{error} ({self._job.path})")
                self._job.cancel()
        self._result.seconds = round(time.monotonic() - began, 1)
        return self._result

    def _submit(self) -> Job:
        own = self._setting.options["env"]
        path = ":".join([str(_WITNESS), *filter(None, [own.get("PYTHONPATH"), os.environ.get("PYTHONPATH")])])
        options = {**self._setting.options, "env": {**own, "PYTHONPATH": path}}
        work = self._work / f"{self._setting.name}-{os.getpid()}-{self._result.jobs}"
        work.mkdir(parents=True)
        rows = [row for row, _ in self._expected]
        pace = {} if self._model else {"rehearse": PACE}
        given = {"engine": ENGINE, "max_requeues": 1000, **pace, **SAMPLING, **options}
        return submit_tiny(self._model, work, rows, **given)

    def _live_through(self) -> None:
        """Kill, and resume, until every row is done."""
        self._begin_to_wait()
        while True:
            status = self._look_until_due()
            if status is None:
                self._kill(self._draws.pop(0))
            elif status.state == "COMPLETED":
                return
            else:
                self._resume(status)

    def _resume(self, status: Status) -> None:
        _say(f"{self._setting.name}: {status.state}: {status.reason}")
        try:
            if not self._job.resume():
                raise HungError(f"{status.state}: {status.reason}; and there is nothing to resume")
        except FailedError as error:
            raise HungError(f"{status.state}, and it cannot be resumed: {error}") from None
        self._result.resumes += 1
        self._begin_to_wait()

    def _look_until_due(self) -> Status | None:
        """Watch the job until the next kill is due (None), or until it has ended. Raises HungError."""
        while True:
            self._note_recoveries()
            if self._draws and self._victims(self._draws[0]):
                return None
            if time.monotonic() - self._asked_at >= _ASK_S:
                status = self._job.status()
                self._asked_at = time.monotonic()
                if status.is_final:
                    return status
                if self._setting.is_slurm:
                    last = self._result.kills[-1:]
                    is_node = any((kill.target, kill.signal) == ("node", "SIGKILL") for kill in last)
                    self._impatience.look(str(status.job_id), _RETRIED_S if is_node else _REVOKED_S)
                self._check_alive(status)
            time.sleep(_POLL_S)

    # -- killing -------------------------------------------------------------------------------------------------
    def _victims(self, draw: Draw) -> tuple[int, int] | None:
        """The task and the attempt that a kill is due for, None where its moment has not come."""
        tasks = self._job.folder.job().plan.layout.tasks
        for task in sorted(range(tasks), key=lambda one: one != draw.task):
            last = self._job.folder.last_attempt(task)
            if last is None or last.attempt in self._dead or self._job.folder.exit_record(last.attempt).exists():
                continue
            return (task, last.attempt) if self._is_moment(draw, task, last.attempt) else None
        return None

    def _is_moment(self, draw: Draw, task: int, attempt: int) -> bool:
        if draw.moment == "start":
            return True
        if draw.moment == "load":
            mine = [rank for rank in self._job.ranks() if rank.attempt == attempt]
            return any(rank.outcome == "running" for rank in mine)
        return self._written(attempt) >= draw.rows

    def _kill(self, draw: Draw) -> None:
        due = self._victims(draw)
        groups = find(self._job, *due, draw.target) if due else []
        if not due or not groups:  # it ended at this moment: the kill is due another time
            self._draws.insert(0, draw)
            return
        task, attempt = due
        victims = groups[int(draw.victim * len(groups))]
        node = Node(victims) if self._setting.is_slurm and (draw.target, draw.signal) == ("node", "SIGKILL") else None
        kill = Kill(
            target=draw.target, signal=draw.signal, moment=draw.moment, job=self._result.jobs, attempt=attempt,
            task=task, at=time.time(),
        )  # fmt: skip
        strike([*victims, *([node.daemon] if node else [])], draw.number)
        if node:
            node.boot()
        self._result.kills.append(kill)
        self._dead.add(attempt)
        self._wait_until_gone(kill)
        _say(f"{self._setting.name}: {kill.target} {kill.signal} at {kill.moment}, attempt {attempt}: {kill.gone_s} s")
        self._begin_to_wait()

    def _wait_until_gone(self, kill: Kill) -> None:
        """Nothing of the attempt may live on. Raises HungError."""
        while left := of_attempt(self._job, kill.attempt):
            if time.time() - kill.at > self._limit_s:
                names = [(one.process.pid, " ".join(one.words)[:80]) for one in left]
                raise HungError(f"after {kill.signal} of {kill.target}, attempt {kill.attempt} still has {names}")
            time.sleep(_POLL_S)
        kill.gone_s = round(time.time() - kill.at, 1)

    # -- waiting -------------------------------------------------------------------------------------------------
    def _begin_to_wait(self) -> None:
        self._asked_at, self._alive_at = 0.0, time.monotonic()

    def _check_alive(self, status: Status) -> None:
        """Raise HungError where nothing has changed for too long."""
        sizes = tuple(shard.stat().st_size for shard in self._job.folder.shard_files())
        ranks = tuple((rank.attempt, rank.outcome) for rank in self._job.ranks())
        seen = (status.state, self._job.folder.last_number(), sizes, ranks)
        if seen != self._seen:
            self._seen, self._alive_at = seen, time.monotonic()
        if time.monotonic() - self._alive_at > self._limit_s:
            raise HungError(f"nothing happened for {self._limit_s:g} s: {status.state}: {status.reason}")

    def _note_recoveries(self) -> None:
        open_ = [kill for kill in self._result.kills if kill.recovery_s is None and kill.job == self._result.jobs]
        if open_ and any(self._written(attempt) for attempt in self._later(open_[-1])):
            open_[-1].recovery_s = round(time.time() - open_[-1].at, 1)

    def _later(self, kill: Kill) -> list[int]:
        found = self._job.folder.attempts()
        return [one.attempt for one in found if one.attempt > kill.attempt and one.task == kill.task]

    def _written(self, attempt: int) -> int:
        """Rows that an attempt has put into its shards."""
        layout = self._job.folder.job().plan.layout
        shards = [self._job.folder.shard(replica, attempt) for replica in range(layout.dp)]
        return sum(shard.read_bytes().count(b"\n") for shard in shards if shard.exists())

    # -- the end -------------------------------------------------------------------------------------------------
    def _check(self) -> None:
        """Take down what became of the rows of this job, and whether anything is left behind."""
        result, layout, attempts = self._result, self._job.folder.job().plan.layout, self._job.folder.attempts()
        result.problems += check_rows(self._job, self._expected)
        counts = count(self._job)
        result.rows += len(self._expected)
        result.attempts += len(attempts)
        result.again += counts.again
        result.twice += counts.twice
        result.unwritten += counts.unwritten
        result.most_lost = max(result.most_lost, counts.most_lost)
        kills = sum(kill.job == result.jobs for kill in result.kills)
        most = kills * IN_FLIGHT * (1 if layout.is_array else layout.dp)
        if counts.again - counts.unwritten > most:
            result.problems.append(
                f"{counts.again} rows were begun again, of at most {most} in flight ({self._job.path})"
            )
        if counts.twice:
            result.problems.append(f"{counts.twice} lines of rows that were written already ({self._job.path})")
        for attempt in attempts:
            ended = self._job.folder.exit_of(attempt.attempt)
            if attempt.attempt not in self._dead and (ended is None or ended.exit_code):
                words = (self._job.logs()[-2000:], self._job.logs(0)[-2000:])
                result.problems.append(f"attempt {attempt.attempt} was not killed, and died: {ended}: {words}")
        self._wait_for_quiet({attempt.job_id for attempt in attempts})

    def _wait_for_quiet(self, ids: set[str]) -> None:
        deadline = time.monotonic() + self._limit_s
        while (left := processes_of(self._job)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        segments = [file for ident in ids for file in Path("/dev/shm").glob(f"vllm-hpc-{ident}[-_]*")]
        self._result.problems += [f"left behind: {one}" for one in [*left, *segments]]


class _Impatience:
    """Slurm has a job that it requeues wait for two minutes; a site may not."""

    def __init__(self) -> None:
        self._waits_since: dict[str, float] = {}

    def look(self, job_id: str, wait_s: float) -> None:
        """Let what has waited for so long begin now."""
        asked = ["squeue", "--noheader", "--array", f"--jobs={job_id}", "--states=PENDING", "--format=%i %r"]
        lines = subprocess.run(asked, capture_output=True, text=True).stdout.splitlines()
        waiting = [line.split()[0] for line in lines if line.endswith("BeginTime")]
        now = time.monotonic()
        self._waits_since = {ident: self._waits_since.get(ident, now) for ident in waiting}
        for ident in waiting:
            if now - self._waits_since[ident] >= wait_s:
                subprocess.run(["scontrol", "update", f"JobId={ident}", "StartTime=now"], capture_output=True)


def _say(words: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {words}", flush=True)
