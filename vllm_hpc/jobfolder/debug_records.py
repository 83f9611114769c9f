"""What ranks are doing at a moment, as records: what ``vllm-hpc debug`` asks for, and the watchdog before a job ends.

``control/debug-<n>`` asks, ``state/debug-<n>/rank-<r>.json`` answers. ``state/hang-<k>.json`` is what was found before
attempt k was ended.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.record_files import read_json
from vllm_hpc.spec.write_file import make_folder, open_new

# Who has looked: the rank itself; another rank of its node, or the node's torchrun agent, for one that cannot answer;
# nobody, where only its earlier records are known.
Source = Literal["rank", "neighbour", "agent", "records"]
_ASKED = re.compile(r"debug-(\d{1,9})")
_PACKAGES = re.compile(r"^.*/(?:site|dist)-packages/")
# Code that only carries out what others asked for.
_PASSES_ON = re.compile(
    r"(torch/(_ops|nn/modules/module|utils/_contextlib|_inductor/.*|_dynamo/.*|cuda/(streams|__init__))\.py"
    r"|/(threading|selectors|socket|queue|contextlib|subprocess|asyncio/\w+|concurrent/futures/\w+)\.py"
    r"|^<frozen [^>]*>)$"
)
# Installed packages, Python's own, and this one.
_NOT_OWN = re.compile(r"/(?:site|dist)-packages/|/lib/python3\.\d+/|/vllm_hpc/|^<")
_MOST_BYTES = 4 << 20
_MOST_AT_ONCE = 8


class Frame(msgspec.Struct, frozen=True):
    """A line that a thread is at."""

    file: str
    line: int
    function: str

    @property
    def place(self) -> str:
        """``myprog.py:31``; of an installed package with its folders."""
        inside = _PACKAGES.sub("", self.file)
        return f"{inside if inside != self.file else self.file.rsplit('/', 1)[-1]}:{self.line}"

    @property
    def words(self) -> str:
        """``myprog.py:31 in main``."""
        return self.place if self.function == "<module>" else f"{self.place} in {self.function}"

    @property
    def passes_on(self) -> bool:
        """Whether the line only passes a call on, so that the one that called it tells more."""
        return bool(_PASSES_ON.search(self.file))


class Thread(msgspec.Struct, frozen=True):
    """A thread beside the main one, innermost frame first."""

    name: str
    stack: tuple[Frame, ...]


class Collective(msgspec.Struct, frozen=True, kw_only=True):
    """What a rank waits for others in: ``all_reduce``, ``barrier``, a wait for a store's keys.

    ``site`` called it. ``members`` are the global ranks of its ``group``, and ``sequence`` says which of the group's
    collectives it is, where torch tells.
    """

    operation: str
    site: Frame | None = None
    group: str = ""
    members: tuple[int, ...] = ()
    sequence: int | None = None


class Recorded(msgspec.Struct, frozen=True, kw_only=True):
    """A collective in torch's flight recorder."""

    operation: str
    group: str = ""
    sequence: int | None = None
    state: str = ""


class RankView(msgspec.Struct, frozen=True, kw_only=True):
    """One rank at one moment; stacks have the innermost frame first.

    ``phase``: what the rank's own records say it does, with the ``row`` that it admits; ``steps`` of the engine and
    ``last_row``, the index of the row that finished last. ``still_s``: seconds that the main thread has been at the
    same place. ``process`` is the kernel's state of it (R, S, D, T, t, Z; "gone"), ``waits_in`` the kernel's function.
    ``seen_s``: how old the stack is, of a process that cannot answer. ``cpu_percent`` is of one core. ``address`` is
    the rank's own, ``unreached`` are those that do not answer it. ``native``: py-spy's words.
    """

    rank: int
    attempt: int
    host: str
    pid: int
    source: Source
    at: float
    phase: str = ""
    row: str = ""
    steps: int | None = None
    last_row: int | None = None
    still_s: float = 0.0
    stack: tuple[Frame, ...] = ()
    threads: tuple[Thread, ...] = ()
    collective: Collective | None = None
    recorded: tuple[Recorded, ...] = ()
    process: str = ""
    waits_in: str = ""
    seen_s: float = 0.0
    silent_s: float | None = None
    cpu_percent: float | None = None
    gpu: str = ""
    address: str = ""
    unreached: tuple[str, ...] = ()
    native: str = ""
    outcome: str = "running"

    @property
    def own(self) -> Frame | None:
        """The innermost line of the user's own code, if the rank runs such."""
        return next((frame for frame in self.stack if not _NOT_OWN.search(frame.file)), None)

    @property
    def place(self) -> Frame | None:
        """The line that says most: the innermost that does not only pass a call on."""
        return next((frame for frame in self.stack if not frame.passes_on), self.stack[0] if self.stack else None)


class Hang(msgspec.Struct, frozen=True, kw_only=True):
    """state/hang-<k>.json: who waited for whom when attempt k was ended. ``lines[0]`` names the rank to look at.

    ``kind`` is the verdict's (judge_hang.py), ``why`` what rank ``found_by`` had met before it asked the others.
    """

    attempt: int
    found_by: int
    why: str
    at: float
    lines: tuple[str, ...]
    kind: str = ""
    odd: tuple[int, ...] = ()
    views: tuple[RankView, ...] = ()

    @property
    def headline(self) -> str:
        """Its first line."""
        return self.lines[0] if self.lines else self.why


class DebugFiles:
    """The names and contents of these records in a job's folder."""

    def __init__(self, job: JobFolder) -> None:
        self._control, self._state = job.path / "control", job.path / "state"

    def hang(self, attempt: int) -> Path:
        """What was found before attempt k was ended."""
        return self._state / f"hang-{attempt}.json"

    def finding(self, attempt: int) -> Path:
        """Made by the rank of attempt k that asks the others before it ends; only one does."""
        return self._state / f"finding-{attempt}"

    def read_hang(self, attempt: int) -> Hang | None:
        """The same, None if there is none."""
        return read_json(self.hang(attempt), Hang, _MOST_BYTES)

    def asked(self, number: int) -> Path:
        """The mark that asks for the n-th time."""
        return self._control / f"debug-{number}"

    def answers(self, number: int) -> Path:
        """The folder of the answers."""
        return self._state / f"debug-{number}"

    def answer(self, number: int, rank: int) -> Path:
        """One rank's answer."""
        return self.answers(number) / f"rank-{rank}.json"

    def last_number(self) -> int:
        """How often was asked so far."""
        with suppress(OSError):
            found = (_ASKED.fullmatch(file.name) for file in self._control.iterdir())
            return max((int(match[1]) for match in found if match), default=0)
        return 0

    def asked_since(self, number: int) -> list[int]:
        """The questions after that one, of very many the last: not more are asked in one pause of who listens."""
        last = self.last_number()
        return list(range(max(number, last - _MOST_AT_ONCE) + 1, last + 1))

    def ask(self) -> int:
        """Ask all ranks, and return the number of the question. Raises OSError.

        Who asks at the same moment gets the same number: the answers are for both.
        """
        number = self.last_number() + 1
        make_folder(self.answers(number))
        with suppress(FileExistsError), open_new(self.asked(number), 0o644):
            pass
        return number

    def read(self, number: int, ranks: Iterable[int]) -> dict[int, RankView]:
        """The answers that are there, by rank."""
        found = {rank: read_json(self.answer(number, rank), RankView, _MOST_BYTES) for rank in ranks}
        return {rank: view for rank, view in found.items() if view is not None and view.rank == rank}
