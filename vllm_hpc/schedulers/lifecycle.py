"""lifecycle.sh: what every job's script does in the same way. It is copied into the job folder when that is made."""

from __future__ import annotations

import hashlib
from importlib.resources import files


def lifecycle_text() -> str:
    """The packaged file, as it is now: like the templates, which may be newer than a process that runs for days."""
    return (files("vllm_hpc") / "templates" / "lifecycle.sh").read_text(encoding="utf-8")


def lifecycle_sha256() -> str:
    """Its digest, which the script compares with what it has read."""
    return hashlib.sha256(lifecycle_text().encode()).hexdigest()
