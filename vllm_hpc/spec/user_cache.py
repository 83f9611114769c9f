"""Where vllm-hpc caches what it can rebuild: the converted demo model, compiled templates, archives of compiled code.

Some of it is code, which would run as the user: it is kept only where nobody else can write.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from vllm_hpc.spec.ownership import is_mine_alone


def cache_folder() -> Path:
    """The user's cache folder: $XDG_CACHE_HOME/vllm-hpc, by default ~/.cache/vllm-hpc.

    Where others can write to that, or put another in its place, a private folder of this machine. Raises
    FileNotFoundError if the user has no home folder, as in some containers, PermissionError if there is no private one.
    """
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vllm-hpc"
    except RuntimeError as error:
        raise FileNotFoundError(str(error)) from None
    with suppress(OSError):  # a cache that cannot be made holds nothing; whoever writes to it will say so
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder if not folder.is_dir() or is_mine_alone(folder) else machine_folder() / "cache"


def machine_folder() -> Path:
    """A folder of this machine that nobody else can write to, under $TMPDIR. Raises PermissionError."""
    folder = Path(tempfile.gettempdir()) / f"vllm-hpc-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or not is_mine_alone(folder):
        raise PermissionError(f"{folder} must be your own folder, which only you can write to")
    return folder
