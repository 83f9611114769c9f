"""OwnJobFolder: a job's folder for whoever acts on what it says: submits, cancels, signals.

A job's folder may be another user's, or lie where others can write. JobFolder reads it to look at; this reads only what
the user themselves has written, and what nobody else can have changed since.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder, T
from vllm_hpc.jobfolder.record_files import read_own
from vllm_hpc.jobfolder.records import JOB_RECORD_VERSION, JobRecord
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.ownership import (
    NotMineError,
    is_writable_by_others,
    read_mine,
    user_name,
    why_foreign,
    why_not_mine,
)

# What 'resume' acts on, or has run.
_RESUMED = ("job.json", "script.*", "lifecycle.sh", "attempts/*.json", "state/[!hp]*.json")
_MOST_NAMES = 3


class OwnJobFolder(JobFolder):
    """Whatever it reads to act on must be the user's own, and nobody else's to write, or it raises RequestError."""

    @staticmethod
    def why_not(path: Path, there: os.stat_result) -> str | None:
        """Why a record must not be obeyed; None if it may."""
        return why_not_mine(path, there)

    def job(self) -> JobRecord:
        """Read job.json. Raises RequestError, JobNotFoundError."""
        try:
            record = msgspec.json.decode(read_mine(self.job_json, self.why_not), type=JobRecord)
        except NotMineError as error:
            raise RequestError(str(error)) from None
        except (OSError, msgspec.DecodeError, RequestError) as error:
            super().job()  # says in its own words what is wrong, as a rule
            raise RequestError(f"cannot read {str(self.job_json)!r}: {error}") from None
        return record if record.version <= JOB_RECORD_VERSION else super().job()

    def read(self, path: Path, kind: type[T]) -> T | None:
        """Read a record of the user's own and of this job; None if it is missing or incomplete. Raises RequestError."""
        record = read_own(path, kind, self.why_not)
        uuid = getattr(record, "uuid", None)
        if uuid is not None and uuid != self.job().uuid:
            raise _of_another_job(path)
        return record

    def read_kept(self, path: Path, kind: type[T]) -> T | None:
        """Read a record that only spares work; one that is not the user's own does not."""
        try:
            return self.read(path, kind)
        except RequestError:
            return None

    def has(self, mark: Path) -> bool:
        """Whether the user made a mark for this job. Raises RequestError if it is another user's, or another job's."""
        try:
            # Those of an earlier version are empty, and may be a group's to write.
            content = read_mine(mark, why_not_mine if self.uuid else why_foreign)
        except FileNotFoundError:
            return False
        except NotMineError as error:
            raise RequestError(f"{error}: remove it, and try again") from None
        if content != self.mark_content(mark):
            raise _of_another_job(mark)
        return True


class EarlierJobFolder(OwnJobFolder):
    """The folder of a job whose script is 0.1's: that wrote records to which a project's group can write, too.

    The job is as safe as it was with 0.1, and goes on; its log says so.
    """

    @staticmethod
    def why_not(path: Path, there: os.stat_result) -> str | None:
        """Only because another user wrote it."""
        return why_foreign(path, there)

    def note_open(self) -> None:
        """Say which of its records others can write to, if they can to any."""
        if said := said_of_open(self, _RESUMED):
            print(f"vllm-hpc: {said}", flush=True)


class JobToCancel(OwnJobFolder):
    """For 'cancel', which acts on the job's id alone: what others have written besides is left out.

    Otherwise, whoever can write to the folder could keep the job from being cancelled. ``left_out``: its names.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self.left_out: set[str] = set()

    @property
    def acted_on(self) -> tuple[Path, ...]:
        """The records that say which job that is."""
        return self.job_json, self.submitted, self.cluster, self.supervisor

    def read(self, path: Path, kind: type[T]) -> T | None:
        """Read a record. Raises RequestError if it says which job is cancelled, and is not the user's own."""
        try:
            return super().read(path, kind)
        except RequestError:
            if path in self.acted_on:
                raise
            self._leave_out(path)
            return None

    def has(self, mark: Path) -> bool:
        """Whether the user made a mark for this job."""
        try:
            return super().has(mark)
        except RequestError:
            self._leave_out(mark)
            return False

    def _leave_out(self, path: Path) -> None:
        self.left_out.add(str(path.relative_to(self.path)))


def own_folder(folder: JobFolder, deed: str) -> OwnJobFolder:
    """The job's folder, to act on it. Raises RequestError if the job is another user's, JobNotFoundError.

    ``deed``: what is refused then, as a verb.
    """
    _check_owner(folder, deed, "")
    _check_open(folder, _RESUMED)
    return OwnJobFolder(folder.path)


def job_to_cancel(folder: JobFolder, as_root: str = "") -> JobToCancel:
    """The job's folder, to cancel it; raises as own_folder does. ``as_root``: how the superuser does it otherwise."""
    _check_owner(folder, "cancel", as_root)
    found = JobToCancel(folder.path)
    _check_open(found, [str(path.relative_to(found.path)) for path in found.acted_on])
    return found


def _check_owner(folder: JobFolder, deed: str, more: str) -> None:
    try:
        owner = folder.job_json.lstat().st_uid
    except OSError:
        folder.job()
        raise JobNotFoundError(f"{str(folder.path)!r} is not a job folder: it has no readable job.json") from None
    if owner != os.geteuid():
        raise RequestError(
            f"{str(folder.path)!r} is a job of another user ({user_name(owner)}), and only they can {deed} it: "
            f"'vllm-hpc submit --rows-missing-from {shlex.quote(str(folder.path))}' runs what it has no result for in "
            f"a job of your own{more}"
        )


def _check_open(folder: JobFolder, patterns: Sequence[str]) -> None:
    """Refuse records of the user's own that others can write to, all at once. Raises RequestError."""
    if said := said_of_open(folder, patterns):
        raise RequestError(said)


def said_of_open(folder: JobFolder, patterns: Sequence[str]) -> str:
    """Which files of the user's own others can write to, and what to do; nothing if there are none."""
    found = [path for pattern in patterns for path in sorted(folder.path.glob(pattern)) if _is_open(path)]
    names = [str(path.relative_to(folder.path)) for path in found]
    if not names:
        return ""
    more = len(names) - _MOST_NAMES
    listed = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    where = str(folder.path)
    return (
        f"others can write to {listed} in {where!r}: if you trust what they say, 'chmod -R go-w {shlex.quote(where)}'"
    )


def _is_open(path: Path) -> bool:
    with suppress(OSError):
        there = path.lstat()
        return there.st_uid == os.geteuid() and not path.is_symlink() and is_writable_by_others(there)
    return False


def _of_another_job(path: Path) -> RequestError:
    return RequestError(f"{str(path)!r} is not of this job: somebody has put it there: remove it, and try again")
