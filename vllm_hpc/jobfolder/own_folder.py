"""OwnJobFolder: a job's folder for whoever acts on what it says: submits, cancels, signals.

A job's folder may be another user's, or lie where others can write. JobFolder reads it to look at; this reads only what
the user themselves has written, and what nobody else can have changed since.
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder, T
from vllm_hpc.jobfolder.record_files import read_own
from vllm_hpc.jobfolder.records import JOB_RECORD_VERSION, JobRecord
from vllm_hpc.spec.errors import JobNotFoundError, RequestError
from vllm_hpc.spec.ownership import NotMineError, read_mine, user_name


class OwnJobFolder(JobFolder):
    """Whatever it reads to act on must be the user's own, and nobody else's to write, or it raises RequestError."""

    def job(self) -> JobRecord:
        """Read job.json. Raises RequestError, JobNotFoundError."""
        try:
            record = msgspec.json.decode(read_mine(self.job_json), type=JobRecord)
        except NotMineError as error:
            raise RequestError(str(error)) from None
        except (OSError, msgspec.DecodeError, RequestError) as error:
            super().job()  # says in its own words what is wrong, as a rule
            raise RequestError(f"cannot read {str(self.job_json)!r}: {error}") from None
        return record if record.version <= JOB_RECORD_VERSION else super().job()

    def read(self, path: Path, kind: type[T]) -> T | None:
        """Read a record of the user's own; None if it is missing or incomplete. Raises RequestError."""
        return read_own(path, kind)

    def read_kept(self, path: Path, kind: type[T]) -> T | None:
        """Read a record that only spares work; one that is not the user's own does not."""
        try:
            return read_own(path, kind)
        except RequestError:
            return None

    def has(self, mark: Path) -> bool:
        """Whether the user made a mark. Raises RequestError if another user did."""
        try:
            owner = mark.lstat().st_uid
        except FileNotFoundError:
            return False
        if owner != os.geteuid():
            raise RequestError(f"{str(mark)!r} belongs to another user ({user_name(owner)}): remove it, and try again")
        return True


def own_folder(folder: JobFolder, deed: str) -> OwnJobFolder:
    """The job's folder, to act on it. Raises RequestError if the job is another user's, JobNotFoundError.

    ``deed``: what is refused then, as a verb.
    """
    try:
        owner = folder.job_json.lstat().st_uid
    except OSError:
        folder.job()
        raise JobNotFoundError(f"{str(folder.path)!r} is not a job folder: it has no readable job.json") from None
    if owner != os.geteuid():
        raise RequestError(
            f"{str(folder.path)!r} is a job of another user ({user_name(owner)}), and only they can {deed} it: "
            f"'vllm-hpc submit --rows-missing-from {shlex.quote(str(folder.path))}' runs what it has no result for in "
            "a job of your own"
        )
    return OwnJobFolder(folder.path)
