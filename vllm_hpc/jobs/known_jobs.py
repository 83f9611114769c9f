"""The jobs that a user has submitted, wherever their folders are: so that a name or an id works from any folder.

$XDG_STATE_HOME/vllm-hpc/jobs.jsonl, by default ~/.local/state/vllm-hpc/jobs.jsonl: a line for each submission. Nothing
depends on it: a home that is full or read-only loses the line, and the job is found by its folder.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.jobfolder.submissions import last_submission
from vllm_hpc.spec.ownership import is_mine_alone, read_mine
from vllm_hpc.spec.write_file import open_append, replacing

# Lines that are kept, the newest; and when they are looked through for folders that are gone.
_MOST_LINES, _MANY_BYTES = 5000, 2 << 20
# A file system that is not mounted here may be on another machine with the same home.
_KEEP_UNSEEN_S = 90 * 86400.0


class KnownJob(msgspec.Struct, frozen=True, omit_defaults=True):
    """A line: a job's folder, its name, the id of a submission, and when that was (Unix seconds).

    ``earlier``: the ids that it had before it was resumed.
    """

    path: str
    name: str
    job_id: str | None = None
    created_at: float = 0.0
    earlier: tuple[str, ...] = ()

    @property
    def ids(self) -> tuple[str, ...]:
        """All that are known, the last one first."""
        return (*([self.job_id] if self.job_id else []), *self.earlier)


def remember(folder: JobFolder) -> None:
    """Add a job that was just submitted, also again. What keeps it from being written keeps nobody from submitting."""
    with suppress(OSError, UnicodeError):  # a path that is not UTF-8 is in no JSON
        path = _file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_mine_alone(path.parent):
            return
        line = KnownJob(str(folder.path), folder.path.name, last_submission(JobFolder(folder.path)), time.time())
        descriptor = open_append(path, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            file.write(msgspec.json.encode(line) + b"\n")  # one write: other submissions come before or after it
            is_long = os.fstat(file.fileno()).st_size > _MANY_BYTES
        if is_long:
            forget_gone()


def known_jobs() -> list[KnownJob]:
    """The user's jobs in the order of their submission; none where the file cannot be read, or is not theirs alone."""
    try:
        content = read_mine(_file())
    except OSError:
        return []
    found: dict[str, KnownJob] = {}
    for line in content.split(b"\n")[-_MOST_LINES - 1 :]:
        with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            known = msgspec.json.decode(line, type=KnownJob)
            if known.path.startswith("/") and "\0" not in known.path:
                before = found.pop(known.path, None)
                found[known.path] = _merged(before, known) if before else known
    return list(found.values())


def _merged(before: KnownJob, known: KnownJob) -> KnownJob:
    earlier = tuple(dict.fromkeys(one for one in (*known.earlier, *before.ids) if one != known.job_id))
    return msgspec.structs.replace(known, earlier=earlier, created_at=before.created_at)


def forget_gone() -> None:
    """Take out the jobs whose folders were removed, and the oldest if there are too many. Raises OSError.

    A line that is added in this moment may be lost.
    """
    known = known_jobs()
    if not known:  # it cannot be read
        return
    kept = [one for one in known if not _is_gone(one)]
    with replacing(_file(), 0o600) as file:  # shorter, even if none is gone: a job that was resumed has several lines
        file.write(b"".join(msgspec.json.encode(one) + b"\n" for one in kept))


def _is_gone(known: KnownJob) -> bool:
    folder = Path(known.path)
    try:
        if (folder / "job.json").exists():
            return False
        return folder.parent.exists() or time.time() - known.created_at > _KEEP_UNSEEN_S
    except OSError:
        return False


def _file() -> Path:
    """Raises FileNotFoundError for a user without a home."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
    return Path(state) / "vllm-hpc" / "jobs.jsonl"
