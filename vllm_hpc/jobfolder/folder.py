"""JobFolder: the one owner of every file name in a job folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from vllm_hpc.jobfolder.job_ids import as_file_name
from vllm_hpc.jobfolder.record_files import is_of_later_version, read_job, read_json, why_closed
from vllm_hpc.jobfolder.records import Attempt, Ending, ExitRecord, JobRecord, Progress, RankRecord, Retry
from vllm_hpc.jobfolder.shard_names import shard_name, shard_numbers, shards_among
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.program import Program
from vllm_hpc.spec.write_file import open_new

T = TypeVar("T")
SUBFOLDERS = ("attempts", "state", "control", "logs", "ranks", "shards")


class JobFolder:
    """The files of one job. Creating the object does not touch the disk."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user wrote them
        self.job_json = self.path / "job.json"
        self.input = self.path / "input.jsonl"
        self.input_zst = self.path / "input.jsonl.zst"
        self.input_json = self.path / "input.json"
        self.input_ids = self.path / "input.ids"
        # Where rows run in another order than the input's: the order, and the rows in it.
        self.order = self.path / "order.json"
        self.order_rows = self.path / "order.rows"
        self.sorted_json = self.path / "input.sorted.json"
        self.sorted = self.path / "input.sorted.jsonl"
        self.sorted_zst = self.path / "input.sorted.jsonl.zst"
        self.lifecycle = self.path / "lifecycle.sh"
        self.chat_template = self.path / "chat-template.jinja"
        self.outputs = self.path / "outputs.jsonl"
        self.summary = self.path / "summary.json"
        self.submitted = self.path / "state" / "submitted.json"
        self.lost = self.path / "state" / "lost.json"
        self.supervisor = self.path / "state" / "supervisor.json"
        self.counted = self.path / "state" / "counted.json"
        self.cluster = self.path / "state" / "cluster.json"
        self.cleaned = self.path / "state" / "cleaned.json"
        self.again = self.path / "state" / "again.json"
        self.cannot_submit = self.path / "state" / "cannot-submit.json"
        self.retry = self.path / "state" / "retry.json"
        self.cancelled = self.path / "control" / "cancelled"
        self.drain = self.path / "control" / "drain"
        self.scheduler_log = self.path / "logs" / "scheduler.out"
        self.ranks = self.path / "ranks"
        self.task = self.ranks / "task.json"
        self.secret = self.path / "state" / "secret"
        self.passed = self.path / "state" / "passed"
        self.shards = self.path / "shards"
        self.claims = self.path / "state" / "claims"
        # A copy of --script, or of the file of --program; and an object that was pickled in a notebook.
        self.program = self.path / "program.py"
        self.program_pickle = self.path / "program.pkl"
        self.artefacts = self.path / "artefacts"

    def __repr__(self) -> str:
        return f"JobFolder({str(self.path)!r})"

    def copy_of(self, program: Program) -> Path:
        """The copy of a program's code, which a program in a module does not have."""
        return self.program_pickle if program.kind == "pickle" else self.program

    def attempt(self, attempt: int) -> Path:
        """Record of attempt k."""
        return self.path / "attempts" / f"{attempt}.json"

    def exit_record(self, attempt: int) -> Path:
        """How attempt k ended."""
        return self.path / "state" / f"exit-{attempt}.json"

    def ending(self, attempt: int) -> Path:
        """Why the local scheduler ends attempt k, written before it does so."""
        return self.path / "state" / f"ending-{attempt}.json"

    def failed(self, attempt: int) -> Path:
        """Created by the first rank that fails, so that the launcher can end the others."""
        return self.path / "state" / f"failed-{attempt}"

    def joined(self, attempt: int, node: int) -> Path:
        """Made on each node when its part of attempt k begins."""
        return self.path / "state" / f"joined-{attempt}-{node}"

    def taken(self, job_id: str | None, number: int = 1) -> Path:
        """Created when the job that ran under that id is submitted again: only one of two concurrent calls succeeds.

        ``number``: the second, third ... time, if the user says that the scheduler does not have the one before.
        """
        submission = as_file_name(job_id) if job_id else "unsubmitted"
        return self.path / "state" / f"resumed-{submission}{f'.{number}' if number > 1 else ''}"

    def take(self, job_id: str | None, number: int = 1) -> Path:
        """Create that mark. Raises FileExistsError if another process already has."""
        mark = self.taken(job_id, number)
        with open_new(mark, 0o644) as file, suppress(OSError):
            file.write(self.mark_content(mark))
        return mark

    def mark_content(self, mark: Path) -> bytes:
        """What is in a mark of this job: so that it is not taken for another's, or under another name."""
        return f"{self.uuid} {mark.name}\n".encode() if self.uuid else b""

    @property
    def uuid(self) -> str:
        """The job's own identity; empty if an earlier version submitted it, or if it cannot be read."""
        return record.uuid if (record := read_job(self.job_json)) else ""

    def task_end(self, job_id: str, task: int) -> Path:
        """The end of an array task, for jobs whose script submits itself again."""
        return self.path / "state" / f"ended-{as_file_name(job_id)}-{task}.json"

    def verdict(self, task: int) -> Path:
        """The scheduler's last word on a task that has ended, kept because the scheduler forgets it."""
        return self.path / "state" / f"verdict-{task}.json"

    def heartbeat(self, rank: int) -> Path:
        """Touched regularly by a live rank."""
        return self.path / "state" / f"heartbeat-{rank}.json"

    def environment(self, rank: int) -> Path:
        """What a rank saw as it began."""
        return self.path / "state" / f"env-{rank}.json"

    def progress(self, replica: int) -> Path:
        """Counts of a replica."""
        return self.path / "state" / f"progress-{replica}.json"

    def drain_attempt(self, attempt: int) -> Path:
        """Created by the script of attempt k before its walltime ends; ``drain`` is for users who stop the job."""
        return self.path / "control" / f"drain-{attempt}"

    def suspects(self, replica: int) -> Path:
        """Rows that may have killed a replica's engine."""
        return self.path / "state" / f"suspects-{replica}.json"

    def crash(self, replica: int, attempt: int) -> Path:
        """Why a replica's engine died in attempt k."""
        return self.path / "state" / f"crash-{replica}.{attempt}.json"

    def claimed(self, replica: int, attempt: int) -> Path:
        """Chunks that a replica started in attempt k, and its trials, one per line."""
        return self.path / "state" / f"claimed-{replica}.{attempt}.jsonl"

    def reserve(self, replica: int) -> Path:
        """Disk space that a replica's writer reserves, so that its rank can still report a full disk."""
        return self.path / "state" / f".reserve-{replica}"

    def rank_log(self, rank: int) -> Path:
        """The output of a rank, over all attempts."""
        return self.path / "logs" / f"rank-{rank}.log"

    def rank_record(self, rank: int) -> Path:
        """Outcome of a rank."""
        return self.ranks / f"rank-{rank}.json"

    def shard(self, lane: int, attempt: int) -> Path:
        """Rows that a lane finished in attempt k."""
        return self.shards / shard_name(lane, self._lanes, attempt)

    def lane_of(self, shard: Path) -> int:
        """The lane that wrote a shard."""
        numbers = shard_numbers(shard)
        return numbers.replica * self._lanes + numbers.lane

    @cached_property
    def _lanes(self) -> int:
        """Lanes of each replica. Raises JobNotFoundError if job.json is there and cannot be read."""
        return self.job().plan.layout.attention_dp if self.job_json.exists() else 1

    def samples(self, replica: int, attempt: int) -> Path:
        """What a replica did over the time of attempt k: a Sample a line."""
        return self.path / "state" / f"samples-{replica}.{attempt}.jsonl"

    def doctor_node(self, attempt: int, node: int) -> Path:
        """What doctor found on a node in attempt k."""
        return self.path / "state" / f"doctor-node-{attempt}-{node}.json"

    def doctor_rank(self, rank: int) -> Path:
        """What doctor found in the first rank of a node."""
        return self.path / "state" / f"doctor-rank-{rank}.json"

    def doctor_shared(self, attempt: int) -> Path:
        """What doctor's head writes for the other nodes to read."""
        return self.path / "state" / f"doctor-shared-{attempt}"

    # -- read ----------------------------------------------------------------------------------------------------
    def is_there(self) -> bool:
        """Whether it has a job.json. Raises JobNotFoundError if this user may not look into the folder."""
        try:
            return self.job_json.is_file()
        except PermissionError:
            raise JobNotFoundError(f"{str(self.path)!r} {why_closed(self.path)}") from None

    def job(self) -> JobRecord:
        """Read job.json. Raises JobNotFoundError."""
        record = read_job(self.job_json)
        if record is None and is_of_later_version(self.job_json):
            raise JobNotFoundError(
                f"{str(self.path)!r} was submitted by a newer vllm-hpc: use that version, or upgrade"
            )
        if record is None:
            raise JobNotFoundError(f"{str(self.path)!r} is not a job folder: it has no readable job.json")
        return record

    def read(self, path: Path, kind: type[T]) -> T | None:
        """Read a record that says what is done; None if it is missing or incomplete."""
        return read_json(path, kind)

    def read_kept(self, path: Path, kind: type[T]) -> T | None:
        """Read a record that only spares work; None if there is none to be used."""
        return read_json(path, kind)

    def has(self, mark: Path) -> bool:
        """Whether a mark was made."""
        return mark.exists()

    @property
    def is_mine(self) -> bool:
        """Whether the job is this user's. False if that cannot be known."""
        try:
            return self.job_json.lstat().st_uid == os.geteuid()
        except OSError:
            return False

    def attempts(self) -> list[Attempt]:
        """All attempts, oldest first."""
        names = [file.stem for file in (self.path / "attempts").glob("*.json")]
        numbers = sorted(int(name) for name in names if name.isdecimal())
        return [found for number in numbers if (found := self.read(self.attempt(number), Attempt))]

    def exit_of(self, attempt: int) -> ExitRecord | None:
        """How attempt k ended, None while it runs. The local scheduler's reason replaces the signal that it sent."""
        record = self.read(self.exit_record(attempt), ExitRecord)
        meant = self.read(self.ending(attempt), Ending) if record else None
        return msgspec.structs.replace(record, cause=meant.cause) if record and meant else record

    def errors_up_to(self) -> int:
        """The last attempt whose errors 'resume --retry-errors' wants to run again; 0: none."""
        retry = self.read(self.retry, Retry)
        return retry.errors_up_to if retry else 0

    def last_number(self) -> int:
        """The number of the newest attempt, 0 before the first."""
        return max((attempt.attempt for attempt in self.attempts()), default=0)

    def last_attempt(self, task: int = 0) -> Attempt | None:
        """The newest attempt of a task, None before the first."""
        return next((attempt for attempt in reversed(self.attempts()) if attempt.task == task), None)

    def progress_of(self, lanes: Iterable[int]) -> list[Progress]:
        """The counts of these lanes, without those that have not started."""
        return [found for lane in lanes if (found := read_json(self.progress(lane), Progress))]

    def records_of(self, ranks: Iterable[int]) -> list[RankRecord]:
        """The records of these ranks, without those that have not started."""
        return [found for rank in ranks if (found := read_json(self.rank_record(rank), RankRecord))]

    def shard_files(self) -> list[Path]:
        """All shards, lowest attempt first."""
        return shards_among(self.shards.iterdir())

    # -- create --------------------------------------------------------------------------------------------------
    def create(self, is_private: bool = False) -> None:
        """Create the folder, in which only its owner writes, whatever the umask or the parent's ACL.

        Others could put links under the names of what a job is going to write. ``is_private``: mode 0700.

        Raises FileExistsError if it exists, RequestError if it cannot be created.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(0o700 if is_private else 0o755)
        except FileExistsError:
            if not self.path.parent.is_dir():
                raise RequestError(f"{str(self.path.parent)!r} is not a folder: choose another --job-dir") from None
            raise
        except OSError as error:
            raise RequestError(
                f"cannot create {str(self.path)!r}: {error.strerror}: choose another --job-dir"
            ) from None
        for name in SUBFOLDERS:
            (self.path / name).mkdir(0o700 if is_private else 0o755)

    def remove(self) -> None:
        """Delete a folder whose job was never submitted."""
        shutil.rmtree(self.path, ignore_errors=True)
