"""JobFolder: the one owner of every file name in a job folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.records import (
    Attempt,
    Ending,
    ExitRecord,
    JobRecord,
    Progress,
    RankRecord,
    Retry,
    is_of_later_version,
    read_job,
    read_json,
)
from vllm_hpc.spec.errors import JobNotFoundError, RequestError

_SHARD_NAME = re.compile(r"replica-(\d+)\.(\d+)\.jsonl")
SUBFOLDERS = ("attempts", "state", "control", "logs", "ranks", "shards")


class JobFolder:
    """The files of one job. Making the object touches nothing."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user wrote them
        self.job_json = self.path / "job.json"
        self.input = self.path / "input.jsonl"
        self.input_json = self.path / "input.json"
        self.outputs = self.path / "outputs.jsonl"
        self.summary = self.path / "summary.json"
        self.submitted = self.path / "state" / "submitted.json"
        self.supervisor = self.path / "state" / "supervisor.json"
        self.counted = self.path / "state" / "counted.json"
        self.cluster = self.path / "state" / "cluster.json"
        self.retry = self.path / "state" / "retry.json"
        self.cancelled = self.path / "control" / "cancelled"
        self.drain = self.path / "control" / "drain"
        self.scheduler_log = self.path / "logs" / "scheduler.out"
        self.ranks = self.path / "ranks"
        self.shards = self.path / "shards"
        self.claims = self.path / "state" / "claims"

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

    def taken(self, job_id: str | None) -> Path:
        """Made by whoever submits again what ran as that id: of two at once, one."""
        return self.path / "state" / f"resumed-{job_id or 'unsubmitted'}"

    def take(self, job_id: str | None) -> Path:
        """Make that mark. Raises FileExistsError where somebody else has."""
        mark = self.taken(job_id)
        os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644))
        return mark

    def task_end(self, job_id: str, task: int) -> Path:
        """A task of an array has ended, of those that the script itself submits again."""
        return self.path / "state" / f"ended-{job_id}-{task}.json"

    def verdict(self, task: int) -> Path:
        """What the scheduler said last of a task that has ended; it forgets, the folder does not."""
        return self.path / "state" / f"verdict-{task}.json"

    def heartbeat(self, rank: int) -> Path:
        """Touched by a live rank."""
        return self.path / "state" / f"heartbeat-{rank}.json"

    def progress(self, replica: int) -> Path:
        """Counts of a replica."""
        return self.path / "state" / f"progress-{replica}.json"

    def drain_attempt(self, attempt: int) -> Path:
        """Made by the script of attempt k ahead of its walltime; ``drain`` is for whoever wants the job to stop."""
        return self.path / "control" / f"drain-{attempt}"

    def suspects(self, replica: int) -> Path:
        """Rows that may have killed a replica's engine."""
        return self.path / "state" / f"suspects-{replica}.json"

    def crash(self, replica: int, attempt: int) -> Path:
        """What a replica's engine died of in attempt k."""
        return self.path / "state" / f"crash-{replica}.{attempt}.json"

    def claimed(self, replica: int, attempt: int) -> Path:
        """Chunks that a replica began in attempt k, and its trials; a line each."""
        return self.path / "state" / f"claimed-{replica}.{attempt}.jsonl"

    def reserve(self, replica: int) -> Path:
        """Room on the disk that a replica's writer keeps, for its rank to say in that the disk is full."""
        return self.path / "state" / f".reserve-{replica}"

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
        record = read_job(self.job_json)
        if record is None and is_of_later_version(self.job_json):
            raise JobNotFoundError(f"{str(self.path)!r} was submitted by a later vllm-hpc: use that one, or upgrade")
        if record is None:
            raise JobNotFoundError(f"{str(self.path)!r} is not a job folder: it has no readable job.json")
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

    def errors_up_to(self) -> int:
        """Errors of attempts up to this one are to be run again: 'resume --retry-errors' said so; 0: none are."""
        retry = read_json(self.retry, Retry)
        return retry.errors_up_to if retry else 0

    def last_number(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return max((attempt.attempt for attempt in self.attempts()), default=0)

    def last_attempt(self, task: int = 0) -> Attempt | None:
        """The newest attempt of a task, None before the first."""
        return next((attempt for attempt in reversed(self.attempts()) if attempt.task == task), None)

    def progress_of(self, replicas: Iterable[int]) -> list[Progress]:
        """The counts of those of these replicas that have begun."""
        found = (read_json(self.progress(replica), Progress) for replica in replicas)
        return [progress for progress in found if progress is not None]

    def records_of(self, ranks: Iterable[int]) -> list[RankRecord]:
        """The records of those of these ranks that have begun."""
        found = (read_json(self.rank_record(rank), RankRecord) for rank in ranks)
        return [record for record in found if record is not None]

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
