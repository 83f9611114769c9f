"""The job's secret: what its ranks know, and nobody else on the machine.

It lies in the job folder, which other users may read, and a project's group may write: so only its owner can read the
file, and a file that is not so is refused. It stands in no argument, variable or log.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from vllm_hpc.jobfolder.file_system import check_is_kept
from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.ownership import open_mine
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.write_file import open_new, temporary_name

_BYTES = 32


def job_secret(folder: JobFolder) -> bytes:
    """The job's secret, which the first of its ranks to ask for it makes. Raises RequestError, OSError."""
    try:
        return _read(folder.secret)
    except FileNotFoundError:
        _make(folder.secret)
    return _read(folder.secret)


def _read(path: Path) -> bytes:
    try:
        with open_mine(path) as file:
            is_private = not stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077
            found = file.read(_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RequestError(f"cannot use the job's secret: {error}; {_advice(path)}") from None
    if not is_private or len(found) != _BYTES:
        raise RequestError(f"{str(path)!r} must be {_BYTES} bytes that only you can read: {_advice(path)}")
    return found


def _advice(path: Path) -> str:
    return f"delete {path.name}, and the next attempt makes another"


def _make(path: Path) -> None:
    """Write it under another name first: a hard link is made whole and by one taker only, on NFS too."""
    draft = temporary_name(path)
    with open_new(draft, 0o600) as file:
        file.write(secrets.token_bytes(_BYTES))
    try:
        with open_regular(draft, follow_links=False) as file:
            check_is_kept(file.fileno(), path.parent)
        os.link(draft, path)
    except FileExistsError:
        pass  # another rank was faster
    finally:
        draft.unlink(missing_ok=True)
