"""JobFolder: the one owner of every file name in a job folder, and of how its files are written.

A file that others may read while it is written is written under another name and renamed.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vllm_hpc.errors import JobNotFoundError, RequestError
from vllm_hpc.plan import Plan
from vllm_hpc.request import Request

T = TypeVar("T")
_SHARD_NAME = re.compile(r"replica-(\d+)\.(\d+)\.jsonl")
SUBFOLDERS = ("attempts", "state", "control", "logs", "ranks", "shards")


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """job.json: what was asked and what was computed. ``model`` is what vLLM is given; times are Unix seconds."""

    request: Request
    plan: Plan
    scheduler: str
    model: str
    sampling: dict[str, Any]
    rows: int
    created_at: float
    versions: dict[str, str] = {}


class Submitted(msgspec.Struct, frozen=True):
    """state/submitted.json: the scheduler took the job under this id."""

    scheduler: str
    job_id: str
    submitted_at: float


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """attempts/<k>.json: the script started for the k-th time; ``task`` is that of a job array."""

    attempt: int
    task: int = 0
    job_id: str
    host: str
    started_at: float


class ExitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """state/exit-<k>.json: how attempt k ended. ``cause``: exit, cancelled, timeout, or the name of a signal."""

    attempt: int
    exit_code: int
    cause: str
    ended_at: float


class Ending(msgspec.Struct, frozen=True):
    """state/ending-<k>.json: why the local scheduler is about to end attempt k: cancelled or timeout."""

    cause: str


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """state/progress-<replica>.json: what a replica's first rank has written; counts of rows, tokens, seconds."""

    replica: int
    attempt: int
    total: int
    done: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    started_at: float = 0.0
    updated_at: float = 0.0


class RankError(msgspec.Struct, frozen=True):
    """What a rank died of. ``is_echo``: it only lost another rank, which died before it."""

    type: str
    message: str
    traceback: str
    is_echo: bool = False


class RankRecord(msgspec.Struct, frozen=True, kw_only=True):
    """ranks/rank-<r>.json: where a rank ran and how it ended. Timings are in seconds.

    ``outcome``: running, ok, error, or terminated (it was told to leave). ``digest`` is over the token ids of all
    rows that the replica finished, equal on all its ranks. ``versions`` are those that ran: of vllm, and of torch.
    """

    rank: int
    replica: int
    attempt: int
    host: str
    pid: int
    device: str
    outcome: str
    updated_at: float
    digest: str | None = None
    rows: int = 0
    versions: dict[str, str] = {}
    timings: dict[str, float] = {}
    error: RankError | None = None


class JobFolder:
    """The files of one job. Making the object touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user wrote them
        self.job_json = self.path / "job.json"
        self.input = self.path / "input.jsonl"
        self.outputs = self.path / "outputs.jsonl"
        self.summary = self.path / "summary.json"
        self.submitted = self.path / "state" / "submitted.json"
        self.supervisor = self.path / "state" / "supervisor.json"
        self.counted = self.path / "state" / "counted.json"
        self.cluster = self.path / "state" / "cluster.json"
        self.cancelled = self.path / "control" / "cancelled"
        self.scheduler_log = self.path / "logs" / "scheduler.out"
        self.ranks = self.path / "ranks"
        self.shards = self.path / "shards"

    def __repr__(self) -> str:
        return f"JobFolder({str(self.path)!r})"

    def attempt(self, attempt: int) -> Path:
        """Record of attempt k."""
        return self.path / "attempts" / f"{attempt}.json"

    def exit_record(self, attempt: int) -> Path:
        """How attempt k ended."""
        return self.path / "state" / f"exit-{attempt}.json"

    def ending(self, attempt: int) -> Path:
        """Why the local scheduler ends attempt k, on record before it does."""
        return self.path / "state" / f"ending-{attempt}.json"

    def failed(self, attempt: int) -> Path:
        """Made by the first rank that fails: whoever started the ranks can end the rest."""
        return self.path / "state" / f"failed-{attempt}"

    def verdict(self, task: int) -> Path:
        """What the scheduler said last of a task that has ended; it forgets, the folder does not."""
        return self.path / "state" / f"verdict-{task}.json"

    def heartbeat(self, rank: int) -> Path:
        """Touched by a live rank."""
        return self.path / "state" / f"heartbeat-{rank}.json"

    def progress(self, replica: int) -> Path:
        """Counts of a replica."""
        return self.path / "state" / f"progress-{replica}.json"

    def rank_log(self, rank: int) -> Path:
        """What a rank printed, over all attempts."""
        return self.path / "logs" / f"rank-{rank}.log"

    def rank_record(self, rank: int) -> Path:
        """Outcome of a rank."""
        return self.ranks / f"rank-{rank}.json"

    def shard(self, replica: int, attempt: int) -> Path:
        """Rows that a replica finished in attempt k."""
        return self.shards / f"replica-{replica}.{attempt}.jsonl"

    # -- reading -------------------------------------------------------------------------------------------------
    def job(self) -> JobRecord:
        """Read job.json. Raises JobNotFoundError."""
        record = read_json(self.job_json, JobRecord)
        if record is None:
            raise JobNotFoundError(f"{str(self.path)!r} is no job folder: it has no readable job.json")
        return record

    def attempts(self) -> list[Attempt]:
        """All attempts, the oldest first."""
        names = [file.stem for file in (self.path / "attempts").glob("*.json")]
        found = (read_json(self.attempt(number), Attempt) for number in sorted(int(n) for n in names if n.isdecimal()))
        return [attempt for attempt in found if attempt is not None]

    def exit_of(self, attempt: int) -> ExitRecord | None:
        """How attempt k ended, None while it runs. What the local scheduler meant wins over the signal it sent."""
        record = read_json(self.exit_record(attempt), ExitRecord)
        meant = read_json(self.ending(attempt), Ending) if record else None
        return msgspec.structs.replace(record, cause=meant.cause) if record and meant else record

    def last_attempt(self, task: int = 0) -> Attempt | None:
        """The newest attempt of a task, None before the first."""
        return next((attempt for attempt in reversed(self.attempts()) if attempt.task == task), None)

    def shard_files(self) -> list[Path]:
        """All shards, the lowest attempt first."""
        found = [(match, file) for file in self.shards.iterdir() if (match := _SHARD_NAME.fullmatch(file.name))]
        return [file for match, file in sorted(found, key=lambda pair: (int(pair[0][2]), int(pair[0][1])))]

    # -- making --------------------------------------------------------------------------------------------------
    def create(self) -> None:
        """Make the folder; of two at once, one gets FileExistsError. Raises RequestError where it cannot be made."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir()
        except FileExistsError:
            if not self.path.parent.is_dir():
                raise RequestError(f"{str(self.path.parent)!r} is not a folder: choose another --job-dir") from None
            raise
        except OSError as error:
            raise RequestError(f"cannot make {str(self.path)!r}: {error.strerror}: choose another --job-dir") from None
        for name in SUBFOLDERS:
            (self.path / name).mkdir()

    def remove(self) -> None:
        """Take back a folder whose job was never submitted."""
        shutil.rmtree(self.path, ignore_errors=True)


def read_json(path: Path, kind: type[T]) -> T | None:
    """Read a record; None where it is not there, or not whole (its writer was killed)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.DecodeError, RequestError):  # also: of a version that checked otherwise
        return None


def write_json(path: Path, record: Any) -> None:
    """Write a record under a temporary name, then rename, so that nobody reads half of it."""
    temporary = temporary_name(path)
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")
    temporary.rename(path)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other writer takes, on this host or another."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}")
