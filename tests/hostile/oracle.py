"""What must hold for every case, whatever is in it: nothing here knows which case it is.

No exception but our own errors, one line for each, no hang, nothing that a shell has run, nothing outside the desk,
nothing half-made, no secret anywhere, nothing that a terminal would obey.
"""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NamedTuple
from unittest.mock import patch

import psutil

from tests.hostile.cases import CANARY, JOBS, Case
from tests.hostile.desk import Desk
from tests.hostile.rehearse import answer_rows
from vllm_hpc.cli import main
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.schedulers import client, scheduler

LIMIT_S = 10
# How much longer it may be on a machine that is busy, and the bytes that a command may take beyond this process's.
_MOST_SLACK, _MOST_MEMORY = 4, 2 << 30
# What a hanging client costs, in the place of 15 s and a minute.
_CLIENT_S = 1.0
# Commands that say in their findings, and not in an error, why their exit code is 1.
_FINDS = ("plan", "collect", "profiles", "templates", "doctor")
_READS = ("plan", "render", "status", "list", "logs")
# Where status may keep what a scheduler has said, because it forgets it.
# A line for each submission, from any folder (jobs/known_jobs.py).
_REGISTRY = Path("home/.local/state/vllm-hpc/jobs.jsonl")
_KEPT = re.compile(r"/state/(verdict-\d+|counted|lost)\.json$")
_OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


Tree = dict[Path, tuple[int, ...]]


class Complaint(NamedTuple):
    """What is wrong: a word for the kind, and what was seen."""

    kind: str
    said: str


# Exceptions that say what went wrong without their traceback.
_KINDS = {"HangError": "hang", "MemoryError": "memory"}


class HangError(BaseException):
    """The command took too long: nothing that it calls may catch this."""


class Terminal(io.TextIOWrapper):
    """A terminal that keeps what is printed."""

    def isatty(self) -> bool:
        return True


class Outcome(NamedTuple):
    """What a command left: its exit code, None where it ended with ``error``, which is a traceback."""

    command: tuple[str, ...]
    code: int | None
    out: str
    err: str
    error: str
    seconds: float


def judge(case: Case, folder: Path, finished: Callable[[], Path]) -> list[Complaint]:
    """Run the case in a new folder; everything that is wrong."""
    desk = Desk(folder)
    with _at(desk, case):
        desk.lay_out(case, finished)
        own = _files(folder)
        found = []
        found += _run_all(case, case.commands, desk)
        if case.answers_rows:
            found += _answer_rows(case, desk)
        if case.runs_script and not found:
            found += _run_script(desk)
    found += [Complaint("expansion", f"{path} was made") for path in folder.rglob(CANARY)]
    written = {path: there for path, there in _files(folder).items() if own.get(path) != there}
    for path in written:
        found += _secrets(case, _content(path), f"written into {path.relative_to(folder)}")
    return found


def _run_all(case: Case, commands: Sequence[tuple[str, ...]], desk: Desk) -> list[Complaint]:
    found: list[Complaint] = []
    for command in commands:
        before = _files(desk.folder)
        outcome = _run(command, case.stdin)
        found += [*_about(outcome), *_changes(outcome, before, _files(desk.folder), desk)]
        found += _secrets(case, outcome.out + outcome.err, "printed")
    return found


def _answer_rows(case: Case, desk: Desk) -> list[Complaint]:
    """Have the submitted job's rows answered, and look at what came of them."""
    jobs = [file.parent for file in desk.desk.glob(f"{JOBS}/*/job.json")]
    for job in jobs:
        answer_rows(job)
    found = [*_run_all(case, [("collect", str(job)) for job in jobs], desk), *_run_all(case, [("list",)], desk)]
    lines = {job: (job / "outputs.jsonl").read_bytes().count(b"\n") for job in jobs if (job / "outputs.jsonl").exists()}
    wrong = [job for job in jobs if lines.get(job) != JobFolder(job).job().rows]
    return [*found, *(Complaint("rows", f"{lines.get(job)} rows came out of {job}") for job in wrong)]


@contextmanager
def _at(desk: Desk, case: Case) -> Iterator[None]:
    """The process as it would be if it had been started at the desk."""
    before = Path.cwd()
    os.chdir(desk.desk)
    try:
        with (
            patch.dict(os.environ, desk.variables(case), clear=True),
            patch.object(tempfile, "tempdir", str(desk.temporary)),
            patch.object(client, "QUERY_TIMEOUT_S", _CLIENT_S),
            patch.object(scheduler, "SUBMIT_TIMEOUT_S", _CLIENT_S),
        ):
            yield
    finally:
        os.chdir(before)


def _run(command: tuple[str, ...], given: bytes) -> Outcome:
    """A command of vllm-hpc in this process."""
    out, err = (Terminal(io.BytesIO(), "utf-8", newline="", write_through=True) for _ in range(2))
    stdin = io.TextIOWrapper(io.BytesIO(given), "utf-8")
    streams = patch.multiple(sys, argv=["vllm-hpc", *command], stdout=out, stderr=err, stdin=stdin)
    began, code, error = time.monotonic(), None, ""
    try:
        with streams, _limited():
            main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else None
    except (Exception, HangError):  # noqa: BLE001 - each is a complaint, MemoryError too
        error = traceback.format_exc()
    said = [one.buffer.getvalue().decode("utf-8", "backslashreplace") for one in (out, err)]  # type: ignore[attr-defined]
    return Outcome(command, code, said[0], said[1], error, time.monotonic() - began)


@contextmanager
def _limited() -> Iterator[None]:
    """Raise HangError in what takes longer than LIMIT_S, or than a busy machine takes for that; and MemoryError.

    pytest's own limit goes on afterwards.
    """

    limit = LIMIT_S * min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1), _MOST_SLACK)

    def ring(number: int, frame: FrameType | None) -> None:
        raise HangError(f"not within {limit:.0f} s")

    began, before = time.monotonic(), signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        with _little_memory():
            yield
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1) if left else 0)


@contextmanager
def _little_memory() -> Iterator[None]:
    """A file without an end fails before it has taken the machine's memory."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + _MOST_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _about(outcome: Outcome) -> Iterator[Complaint]:
    """What a command's end and words have wrong with them."""
    name = " ".join(map(repr, outcome.command))
    if outcome.error:
        kinds = (kind for name, kind in _KINDS.items() if name in outcome.error)
        yield Complaint(next(kinds, "traceback"), f"{name}: {outcome.error[-3000:]}")
        return
    if outcome.code not in (0, 1, 2, 3):
        yield Complaint("code", f"{name}: exit code {outcome.code}: {outcome.err[-500:]}")
    errors = [line for line in outcome.err.splitlines() if line.startswith("Error: ")]
    is_said_otherwise = outcome.code in (1, 3) and outcome.command[0] in _FINDS
    if len(errors) != (outcome.code in (1, 2)) and not is_said_otherwise:
        said = outcome.err[-1500:]
        yield Complaint("line", f"{name}: exit code {outcome.code}, {len(errors)} lines of error: {said!r}")
    if "Error: " in errors:
        yield Complaint("line", f"{name}: an error without words")
    if "Traceback (most recent" in outcome.out + outcome.err:
        yield Complaint("traceback", f"{name}: printed: {(outcome.out + outcome.err)[-1500:]}")
    printed = outcome.out + outcome.err
    if found := _OBEYED.search(printed):
        around = printed[max(0, found.start() - 200) : found.end() + 50]
        yield Complaint("escape", f"{name}: prints {found[0]!r}: {around!r}")


def _changes(outcome: Outcome, before: Tree, after: Tree, desk: Desk) -> Iterator[Complaint]:
    """What a command did to the disk that it must not do."""
    gone = [path for path in before if path not in after]
    for path in [*(path for path in after if before.get(path) != after[path]), *gone]:
        where = path.relative_to(desk.folder)
        if where.parts[0] == "cache" or path == desk.kept or _REGISTRY.is_relative_to(where):
            continue
        if where.parts[0] != "desk":
            yield Complaint("outside", f"{outcome.command}: {where}")
        elif not _KEPT.search(str(path)) and (kind := _broken_rule(outcome, path, where)):
            yield Complaint(kind, f"{outcome.command}: exit code {outcome.code}, and {where} was changed")


def _broken_rule(outcome: Outcome, path: Path, where: Path) -> str:
    """Which rule it breaks that something in the desk was changed."""
    if outcome.command[0] in _READS:
        return "written"
    is_left = path.is_dir() and where.parts[1:] != (JOBS,) and "may or may not" not in outcome.err
    is_half = outcome.code == 2 or (outcome.code == 1 and outcome.command[0] == "submit" and is_left)
    return "half" if is_half else ""


def _files(folder: Path) -> Tree:
    """Every file below, by what tells that it was changed."""
    found = {}
    for path in folder.rglob("*"):
        there = path.lstat()
        is_file = stat.S_ISREG(there.st_mode)
        found[path] = (there.st_mode, there.st_ino, *((there.st_size, there.st_mtime_ns) if is_file else ()))
    return found


def _content(path: Path) -> str:
    there = path.lstat()
    is_small = stat.S_ISREG(there.st_mode) and there.st_size < 1 << 26
    return path.read_bytes().decode("utf-8", "replace") if is_small else ""


def _secrets(case: Case, text: str, where: str) -> list[Complaint]:
    return [Complaint("secret", f"{one} is {where}") for one in case.secrets if one in text]


def _run_script(desk: Desk) -> list[Complaint]:
    """Run what was submitted where nothing starts: what the script itself expands is seen by the canary."""
    script = desk.script()
    if script is None:
        return []
    node = desk.folder / "vllm-hpc-node"
    (desk.folder / "nodes").write_text("localhost\n")
    variables = {
        "PATH": f"{desk.bin}:/usr/bin:/bin", "HOME": str(desk.home), "TMPDIR": str(desk.temporary),
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "localhost", "SLURM_NODEID": "0", "PBS_JOBID": "4711.server",
        "PBS_NODEFILE": str(desk.folder / "nodes"), "PBS_O_WORKDIR": str(desk.desk),
    }  # fmt: skip
    node.write_text(script)
    done = subprocess.run(
        ["bash", str(node)], cwd=desk.desk, env=variables, capture_output=True, text=True, errors="replace", timeout=60,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    wrong = re.search(r"syntax error|unbound variable|unexpected EOF|lifecycle.sh is not", done.stderr)
    return [Complaint("script", f"bash says: {done.stderr[-1500:]}")] if wrong else []
