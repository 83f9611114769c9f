"""lifecycle.sh: what every job's script does in the same way. It is copied into the job folder when that is made."""

from __future__ import annotations

import hashlib
import re
from importlib.resources import files
from pathlib import Path

from vllm_hpc.jobfolder.folder import JobFolder
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import read_regular


def lifecycle_text() -> str:
    """The packaged file, as it is now: like the templates, which may be newer than a process that runs for days."""
    return (files("vllm_hpc") / "templates" / "lifecycle.sh").read_text(encoding="utf-8")


def sha256(text: str) -> str:
    """The digest of a text of lifecycle.sh, which the script compares with what it has read, or of a script."""
    return hashlib.sha256(text.encode()).hexdigest()


def lifecycle_sha256() -> str:
    """The digest of the packaged file."""
    return sha256(lifecycle_text())


def check_lifecycle(folder: JobFolder, script: Path) -> None:
    """Refuse to submit a script again that is gone, or whose lifecycle.sh is, or was edited: it would wait and fail.

    Scripts of vllm-hpc 0.1, and a site's own, need no such file. Raises RequestError.
    """
    try:
        text = read_regular(script).decode(errors="replace")
    except OSError as error:
        raise RequestError(
            f"cannot read {str(script)!r}: {error.strerror}: submit a new job, or restore the file"
        ) from None
    asks = re.search(r"\b[0-9a-f]{64}\b", text)
    if asks is None:
        return
    try:
        is_same = hashlib.sha256(read_regular(folder.lifecycle)).hexdigest() == asks[0]
    except OSError:
        is_same = False
    if not is_same:
        raise RequestError(
            f"{str(folder.lifecycle)!r} is missing or was changed since the job was submitted: submit a new job, or "
            "restore the file"
        )
