"""debug: asks the ranks of a running job where they are, and says who waits for whom; of an ended one, what it left."""

from __future__ import annotations

import shutil
import time
from contextlib import suppress

import msgspec

from vllm_hpc.jobfolder.debug_records import DebugFiles, RankView
from vllm_hpc.jobfolder.debug_views import complete, must_answer
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.judge_hang import judge
from vllm_hpc.jobfolder.records import RankRecord
from vllm_hpc.jobs.status import Status, read_status
from vllm_hpc.spec.errors import FailedError, RequestError
from vllm_hpc.spec.words import counted

# Ranks look for a question every five seconds, and two later others of their node answer for them.
TIMEOUT_S = 15.0
_LOOK_S = 0.2


class Debugged(msgspec.Struct, frozen=True, kw_only=True):
    """What ``debug --json`` prints. ``lines[0]`` says most; ``odd`` are the ranks that the others wait for.

    ``kind`` says why they are odd: gone, ended, stopped, cut, silent, disk, locked, behind, elsewhere; empty: none is.
    ``silent``: the ranks of which nobody has answered. ``found_at``: when it was asked (Unix seconds); of a job that
    has ended, when its ranks found out, and ``why`` they asked.
    """

    job: str
    state: str
    lines: tuple[str, ...]
    kind: str = ""
    odd: tuple[int, ...] = ()
    silent: tuple[int, ...] = ()
    why: str = ""
    found_at: float
    ranks: tuple[RankView, ...]


def debug(folder: JobFolder, timeout_s: float = TIMEOUT_S) -> Debugged:
    """Ask, and wait at most ``timeout_s`` seconds for the answers.

    Raises RequestError if it is another user's job, FailedError if there is no rank to ask, JobNotFoundError, OSError.
    """
    status = read_status(folder)
    if status.is_final:
        return _of_ended(folder, status)
    if not folder.is_mine:
        raise RequestError(f"{str(folder.path)!r} is a job of another user: only they can debug it")
    records = _running(folder)
    if not records:
        reason = f" ({status.reason})" if status.reason else ""
        raise FailedError(f"no rank runs yet: the job is {status.state}{reason}: try again later")
    files = DebugFiles(folder)
    number = files.ask()
    _forget(files, number)
    answers = _wait(folder, files, number, timeout_s)
    records = _running(folder) or records
    views = complete(folder, records, answers)
    verdict = judge(views)
    return Debugged(
        job=str(folder.path), state=status.state, lines=verdict.lines, kind=verdict.kind, odd=verdict.odd,
        silent=tuple(view.rank for view in views if view.source == "records" and view.outcome == "running"),
        found_at=time.time(), ranks=tuple(views),
    )  # fmt: skip


def _of_ended(folder: JobFolder, status: Status) -> Debugged:
    """What the ranks of the last attempt had found before they ended it. Raises FailedError if they did not ask."""
    number = folder.last_number()
    hang = DebugFiles(folder).read_hang(number)
    if hang is None:
        reason = f": {status.reason}" if status.reason else ""
        raise FailedError(
            f"no rank is left to ask: the job is {status.state}{reason}; 'vllm-hpc logs' has what they said"
        )
    return Debugged(
        job=str(folder.path), state=status.state, lines=hang.lines, kind=hang.kind, odd=hang.odd,
        why=f"attempt {hang.attempt} was ended, for rank {hang.found_by} found: {hang.why}", found_at=hang.at,
        ranks=hang.views,
    )  # fmt: skip


def _running(folder: JobFolder) -> list[RankRecord]:
    """The records of the attempts that run, those of ranks that have ended included; none if all have."""
    layout = folder.job().plan.layout
    found: list[RankRecord] = []
    for task in range(layout.tasks):
        attempt = folder.last_attempt(task)
        if attempt is None or folder.exit_of(attempt.attempt) is not None:
            continue
        ranks = folder.records_of(range(task * layout.world_size, (task + 1) * layout.world_size))
        found += [rank for rank in ranks if rank.attempt == attempt.attempt]
    return found if must_answer(found) else []


def _wait(folder: JobFolder, files: DebugFiles, number: int, timeout_s: float) -> dict[int, RankView]:
    until = time.monotonic() + timeout_s
    wanted, answers = must_answer(_running(folder)), dict[int, RankView]()
    while True:
        answers |= files.read(number, wanted - answers.keys())
        if wanted <= answers.keys() or time.monotonic() >= until:
            return answers
        time.sleep(_LOOK_S)


def _forget(files: DebugFiles, number: int) -> None:
    """Remove the answers to earlier questions. Their marks stay: ranks count them."""
    for earlier in range(max(1, number - 8), number):
        with suppress(OSError):
            shutil.rmtree(files.answers(earlier))


def in_one_line(found: Debugged) -> str:
    """How many ranks have answered."""
    asked = [view for view in found.ranks if view.outcome == "running"]
    return f"{len(asked) - len(found.silent)} of {counted(len(asked), 'rank')} answered"
