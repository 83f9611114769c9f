"""Refuses file systems that set owners or modes themselves: NFS that maps users to one, CIFS, exFAT, WSL's /mnt/c.

Nothing in a job folder there would be the user's alone, and no chmod would help.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.ownership import user_name


def check_file_system(folder: Path) -> None:
    """Make a file in a job folder, look at it, and remove it. Raises RequestError, OSError."""
    descriptor, name = tempfile.mkstemp(dir=folder)
    try:
        check_is_kept(descriptor, folder)
    finally:
        os.close(descriptor)
        Path(name).unlink()


def check_is_kept(descriptor: int, folder: Path) -> None:
    """Check that a file which was made for its user alone (0600) is so. Raises RequestError."""
    there = os.fstat(descriptor)
    mode = stat.S_IMODE(there.st_mode)
    if there.st_uid != os.geteuid():
        found = f"new files belong to {user_name(there.st_uid)!r}, not to you"
    elif mode & 0o077:
        found = f"new files have mode {mode:o}, not the one that is asked for"
    else:
        return
    raise RequestError(
        f"in {str(folder)!r} {found}, for its file system sets that ({_file_system(folder)}): choose another --job-dir"
    )


def _file_system(folder: Path) -> str:
    """The type of the file system that a folder is in, and where it is mounted."""
    import psutil

    here = folder.resolve()
    mounts = [one for one in psutil.disk_partitions(all=True) if here.is_relative_to(one.mountpoint)]
    last = max(reversed(mounts), key=lambda one: len(one.mountpoint), default=None)  # the last one hides the others
    return f"{last.fstype} on {last.mountpoint}" if last else "unknown"
