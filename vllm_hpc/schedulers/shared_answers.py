"""What a scheduler has answered, kept for all processes of a user on this machine, so that few of them ask.

However many notebooks and terminals watch jobs, one of them asks for all, every ten seconds. An answer is one to the
question that was asked: for another submission of a job, or once its folder tells of another attempt or of its end, the
scheduler is asked again at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_own, write_json
from vllm_hpc.schedulers.scheduler import JobState, Question, Scheduler
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.user_cache import cache_folder
from vllm_hpc.spec.write_file import make_folder, open_append

# How old an answer may be, in seconds: by default, and the variable that says otherwise (0: everybody asks).
_FRESH_S, VARIABLE = 10.0, "VLLM_HPC_ASK_EVERY_S"
# A job that nobody has wanted to know of for so long is not asked about any more; those who wait say so this often.
_WANTED_S, _SAID_S = 60.0, 15.0
# How long to wait for whoever asks just now: longer than a client may take (client.py).
_PATIENCE_S, _PAUSE_S = 20.0, 0.02
_BUSY = JobState("unknown", "the scheduler does not answer: another vllm-hpc of yours has been waiting for it")
# Jobs that one process asks about for others.
_MOST = 1000
# Where the same client may mean another cluster.
_VARIABLES = ("SLURM_CONF", "SLURM_CLUSTERS", "PBS_CONF_FILE", "PBS_SERVER", "PBS_DEFAULT", "KUBECONFIG")

States = dict[str, JobState]
AskAll = Callable[[Sequence[Question]], list[States]]


class Heard(msgspec.Struct, frozen=True):
    """An answer: what a job's tasks are, as phase and reason. ``ledger`` is what its folder told when it was asked.

    ``heard_at`` and ``wanted_at``: Unix seconds, when the scheduler answered, and when somebody last asked for it.
    """

    job: str
    job_id: str
    tasks: tuple[str, ...]
    ledger: str
    heard_at: float
    wanted_at: float
    states: dict[str, tuple[str, str]]

    @property
    def question(self) -> Question:
        """What was asked."""
        return Question(JobFolder(self.job), self.job_id, self.tasks)

    def found(self) -> States:
        """The answer as the scheduler's states."""
        return {task: JobState(phase, reason) for task, (phase, reason) in self.states.items()}


class SharedAnswers:
    """The answers of one scheduler. Where they cannot be kept, everybody asks."""

    def __init__(self, name: str, scheduler: Scheduler) -> None:
        self._fresh_s = 0.0 if scheduler.runs_here else fresh_s()
        self._file = _file(name, scheduler) if self._fresh_s else None

    def query(self, questions: Sequence[Question], ask: AskAll) -> list[States]:
        """The answers to these questions, in their order. Raises what ``ask`` raises."""
        if self._file is None:
            return ask(questions)
        wanted = {_key(one): (one, ledger(one.job)) for one in questions}
        known = self._read()
        if self._is_known(wanted, known):
            self._say(known, wanted)
            return [known[_key(one)].found() for one in questions]
        with _alone(self._file) as lock:
            known = self._read()  # somebody may have asked meanwhile
            if not self._is_known(wanted, known):
                if lock is Lock.BUSY:
                    return [dict.fromkeys(one.tasks, _BUSY) for one in questions]
                known = self._ask(wanted, known if lock is Lock.MINE else {}, ask)
        return [known[_key(one)].found() for one in questions]

    def keep(self, question: Question, at: float, states: States) -> None:
        """Keep an answer that was asked for, at that time (Unix seconds), without looking here."""
        if self._file is not None:
            with _alone(self._file) as lock:
                if lock is Lock.MINE:
                    self._write(self._read() | {_key(question): _heard(question, ledger(question.job), at, states)})

    def _is_known(self, wanted: dict[str, tuple[Question, str]], known: dict[str, Heard]) -> bool:
        return all(self._answers(known.get(key), *one) for key, one in wanted.items())

    def _answers(self, heard: Heard | None, question: Question, told: str) -> bool:
        if heard is None or heard.ledger != told or not heard.states.keys() >= set(question.tasks):
            return False
        return 0 <= time.time() - heard.heard_at < self._fresh_s

    def _ask(self, wanted: dict[str, tuple[Question, str]], known: dict[str, Heard], ask: AskAll) -> dict[str, Heard]:
        """Ask, also for the jobs that others wait for."""
        began = time.time()
        others = {
            key: (one.question, one.ledger)
            for key, one in known.items()
            if key not in wanted and 0 <= began - one.wanted_at < _WANTED_S
        }
        asked = wanted | dict(list(others.items())[: max(0, _MOST - len(wanted))])
        try:
            answers = ask([question for question, _ in asked.values()])
        except Exception:
            if len(asked) == len(wanted):
                raise
            return self._ask(wanted, {}, ask)  # the folder of another job may be damaged
        found = {
            key: _heard(question, told, began, states, known[key].wanted_at if key in others else None)
            for (key, (question, told)), states in zip(asked.items(), answers, strict=True)
        }
        kept = {key: one for key, one in self._read().items() if 0 <= began - one.wanted_at < _WANTED_S}
        self._write(kept | found)
        return found

    def _say(self, known: dict[str, Heard], wanted: dict[str, tuple[Question, str]]) -> None:
        """Say that somebody still waits for these, unless that was said a moment ago."""
        now = time.time()
        if self._file is None or all(now - known[key].wanted_at < _SAID_S for key in wanted):
            return
        with _alone(self._file, patience_s=0.0) as lock:
            if lock is Lock.MINE:
                newest = self._read()
                said = {key: msgspec.structs.replace(newest[key], wanted_at=now) for key in wanted if key in newest}
                self._write(newest | said)

    def _read(self) -> dict[str, Heard]:
        assert self._file is not None
        with suppress(RequestError):  # it is not this user's alone
            return read_own(self._file, dict[str, Heard]) or {}
        return {}

    def _write(self, known: dict[str, Heard]) -> None:
        if self._file is not None:
            with suppress(OSError):  # a full disk: the next one asks
                write_json(self._file, known)


def fresh_s() -> float:
    """How old an answer may be, in seconds; 0: everybody asks."""
    try:
        return min(3600.0, max(0.0, float(os.environ.get(VARIABLE) or _FRESH_S)))
    except ValueError:
        return _FRESH_S


def ledger(job: JobFolder) -> str:
    """What the folder tells: how many attempts have started, and whether the newest has ended."""
    try:
        names = os.listdir(job.path / "attempts")  # noqa: PTH208 - only the numbers
    except OSError:
        return ""
    begun = [int(number) for number, _, _ in (name.partition(".") for name in names) if number.isdecimal()]
    return f"{len(begun)}{' ended' if begun and job.has(job.exit_record(max(begun))) else ''}"


def _key(question: Question) -> str:
    return f"{question.job_id} {question.job.path}"


def _heard(question: Question, told: str, at: float, states: States, wanted_at: float | None = None) -> Heard:
    said = {task: (state.phase, state.reason) for task, state in states.items()}
    path = str(question.job.path)
    return Heard(path, question.job_id, question.tasks, told, at, at if wanted_at is None else wanted_at, said)


def _file(name: str, scheduler: Scheduler) -> Path | None:
    """The file of the answers: one for each machine and client, for home folders are shared by clusters."""
    client = shutil.which(scheduler.client[0]) if scheduler.client else None
    place = [platform.node(), str(client), *(os.environ.get(one, "") for one in _VARIABLES)]
    digest = hashlib.sha256("\0".join(place).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    try:
        folder = cache_folder() / "schedulers"
        make_folder(folder)
    except OSError:
        return None
    return folder / f"{name}-{digest}.json"


class Lock(Enum):
    """MINE: nobody else asks now. BUSY: somebody does, for longer than one can wait. NONE: there are no locks here."""

    MINE, BUSY, NONE = range(3)


@contextmanager
def _alone(file: Path, patience_s: float | None = None) -> Iterator[Lock]:
    """Be the only process that asks, if that can be."""
    try:
        descriptor = open_append(file.with_suffix(".lock"), 0o600)
    except OSError:
        descriptor = -1
    try:
        yield _locked(descriptor, _PATIENCE_S if patience_s is None else patience_s) if descriptor >= 0 else Lock.NONE
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _locked(descriptor: int, patience_s: float) -> Lock:
    until = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return Lock.BUSY
            time.sleep(_PAUSE_S)
        except OSError:  # a file system without locks
            return Lock.NONE
        else:
            return Lock.MINE
