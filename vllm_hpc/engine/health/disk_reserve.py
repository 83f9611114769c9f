"""Reserves space on the job folder's disk, so that a rank can still record that the disk is full."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from vllm_hpc.spec.write_file import open_append, open_new

# A rank's record is some 10 KB, and a few more files are written when a job ends.
RESERVE_BYTES = 256 << 10
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Reserve:
    """A file that takes up space. A killed job leaves it to its next attempt."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self) -> None:
        """Make the file. If the disk has no space for it, takes none and raises OSError."""
        with suppress(OSError):
            there = self._path.lstat()
            if stat.S_ISREG(there.st_mode) and there.st_size == RESERVE_BYTES:
                return
        self.give_back()  # what is left of one, or whatever has its name
        try:
            self._fill()
        except OSError as error:
            self.give_back()
            if error.errno != errno.EFBIG:  # a limit on one file's size: the record is smaller
                raise explain_os_error(error) from None

    def give_back(self) -> None:
        """Remove the file: its space is needed now, or the work has ended."""
        # Truncate it first: a server may be slow to free the space of a removed file.
        with suppress(OSError):
            descriptor = open_append(self._path, makes=False)
            try:
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
        with suppress(OSError):
            self._path.unlink()

    def _fill(self) -> None:
        with open_new(self._path) as file:
            file.write(os.urandom(RESERVE_BYTES))  # zeros would take no space on a file system that compresses
            file.flush()
            os.fdatasync(file.fileno())  # some file systems allocate, and NFS reports a quota, only here


def explain_os_error(error: OSError) -> OSError:
    """The error; if the disk is full, with what to do."""
    if error.errno not in _FULL:
        return error
    return OSError(f"{error.strerror}: every row finished so far is safe; free some space, then run 'vllm-hpc resume'")
