"""Reads files that somebody else may have put there: only regular ones, never without end, and nothing is waited for.

A FIFO would keep its reader waiting, and /dev/zero or a sparse file fill the memory.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

# Enough for a record with thousands of options, and no more than a moment to read.
MOST_BYTES = 64 * 2**20
NOT_A_LINK = "it must be a regular file, not a link"


class UnfitFileError(OSError):
    """No regular file, or too large a one; ``strerror`` says which."""


def open_regular(path: Path, follow_links: bool = True, folder: int | None = None) -> io.BufferedReader:
    """Open a regular file to read it. Raises OSError, whose strerror says what is wrong.

    What is checked is what is read: the open file. ``folder``: a descriptor of the folder that it is looked up in, by
    its name alone, so that nobody can put a link in that folder's place.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY | (0 if follow_links else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path if folder is None else path.name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow_links:
            raise UnfitFileError(error.errno, NOT_A_LINK, str(path)) from None
        if error.errno == errno.ENXIO:  # a socket
            raise not_regular(path) from None
        raise OSError(error.errno, error.strerror, str(path)) from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise not_regular(path)
    return os.fdopen(descriptor, "rb")


def open_in_folder(path: Path) -> BinaryIO:
    """The same where neither the file nor the folder that it is in may be a link. Raises OSError."""
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(path.parent, flags)
    try:
        return open_regular(path, follow_links=False, folder=folder)
    finally:
        os.close(folder)


def read_regular(path: Path, most: int = MOST_BYTES, follow_links: bool = True) -> bytes:
    """Read a regular file of at most that many bytes. Raises OSError."""
    with open_regular(path, follow_links) as file:
        return read_whole(file, path, most)


def read_whole(file: BinaryIO, path: Path, most: int = MOST_BYTES) -> bytes:
    """Read an open file of at most that many bytes. Raises OSError."""
    # The size first: of a sparse file nothing need be read. Then the content, which may have grown.
    is_large = os.fstat(file.fileno()).st_size > most
    found = b"" if is_large else file.read(most + 1)
    if is_large or len(found) > most:
        raise UnfitFileError(errno.EFBIG, f"it must be at most {_size(most)}", str(path))
    return found


def read_end(path: Path, most: int) -> tuple[bytes, int]:
    """The last ``most`` bytes of a log, which is no link, and how many there are before them. Raises OSError."""
    with open_regular(path, follow_links=False) as file:
        before = max(0, os.fstat(file.fileno()).st_size - most)
        file.seek(before)
        return file.read(most), before


def _size(most: int) -> str:
    return f"{most >> 20} MiB" if most >= 1 << 20 else f"{most >> 10} KiB"


def not_regular(path: Path) -> UnfitFileError:
    """The error for a FIFO, a socket, a device or a folder."""
    return UnfitFileError(errno.EINVAL, "it must be a regular file", str(path))
