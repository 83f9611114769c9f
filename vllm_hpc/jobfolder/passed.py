"""state/passed: the values of variables that a job takes by name (--env NAME, a profile's secrets), for its ranks.

Only where the scheduler does not hand on the environment of the shell that submits: PBS, and Slurm with
``export_environment = false``. Elsewhere there is no such file. It is its owner's alone (0600) whatever the umask and
the folder's mode, holds NAME=value with a NUL behind each, and is removed when the job has ended for good.
"""

from __future__ import annotations

import os
from contextlib import suppress

from vllm_hpc.jobfolder.file_system import check_is_kept
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.write_file import open_new, temporary_name


def write_passed(folder: JobFolder, names: list[str]) -> None:
    """Write these variables as they are here, in place of those of an earlier submission.

    Raises RequestError if one is not set, or if the file system would show the file to others; OSError.
    """
    draft = temporary_name(folder.passed)
    try:
        with open_new(draft, 0o600) as file:
            os.fchmod(file.fileno(), 0o600)  # with a umask of 0777, its owner could not read it
            check_is_kept(file.fileno(), folder.passed.parent)
            file.writelines(_entry(name) for name in names)
        draft.rename(folder.passed)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _entry(name: str) -> bytes:
    if not os.environ.get(name):
        raise RequestError(f"the job takes {name} from the shell that submits it, but it is not set here: export it")
    return os.fsencode(f"{name}={os.environ[name]}") + b"\0"


def passed_file(folder: JobFolder) -> int | None:
    """Which file it is (its inode), None if there is none of this user's."""
    with suppress(OSError):
        there = folder.passed.lstat()
        return there.st_ino if there.st_uid == os.geteuid() else None
    return None


def remove_passed(folder: JobFolder, which: int | None = None) -> None:
    """Remove it; with ``which``, only that file: another process may resume the job, and write another."""
    if which is None or passed_file(folder) == which:
        with suppress(OSError):  # another user's folder, or it is gone
            folder.passed.unlink()
