"""What a job folder takes on the disk: quotas and limits of inodes are what shared file systems run into."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple


class DiskUse(NamedTuple):
    """Bytes that files have, and their number; folders are files, too, for a limit of inodes."""

    bytes: int
    files: int

    def __add__(self, other: object) -> DiskUse:
        """Both together."""
        if not isinstance(other, DiskUse):
            return NotImplemented
        return DiskUse(self.bytes + other.bytes, self.files + other.files)


NOTHING = DiskUse(0, 0)


def disk_use(folder: Path) -> DiskUse:
    """What is below a folder, and the folder itself, without following links; what cannot be read counts as nothing."""
    size, files, left = 0, 1, [str(folder)]
    while left:
        with suppress(OSError), os.scandir(left.pop()) as entries:
            for entry in entries:
                with suppress(OSError):
                    files += 1
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
                    else:
                        size += entry.stat(follow_symlinks=False).st_size
    return DiskUse(size, files)
