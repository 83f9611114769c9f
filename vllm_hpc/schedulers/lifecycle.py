"""lifecycle.sh: what every job's script does in the same way. It is copied into the job folder when that is made."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files


@cache
def lifecycle_text() -> str:
    """The packaged file, read once: the digest in a script is that of the copy beside it, also during an upgrade."""
    return (files("vllm_hpc") / "templates" / "lifecycle.sh").read_text(encoding="utf-8")


def lifecycle_sha256() -> str:
    """Its digest, which the script compares with what it has read."""
    return hashlib.sha256(lifecycle_text().encode()).hexdigest()
