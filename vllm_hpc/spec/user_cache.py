"""Where vllm-hpc caches what it can rebuild: the converted demo model and compiled templates."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's cache folder: $XDG_CACHE_HOME/vllm-hpc, by default ~/.cache/vllm-hpc.

    Raises FileNotFoundError if the user has no home folder, as in some containers.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-hpc"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
