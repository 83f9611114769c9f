"""Writes files in folders where others may write, too: never through a link, nor into what is not the user's own.

Who plants a link under a name that a job uses would otherwise have the job write into another file of its owner's.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vllm_hpc.spec.read_file import NOT_A_LINK, UnfitFileError, not_regular


def open_new(path: Path, mode: int = 0o666, buffering: int = -1) -> BinaryIO:
    """Make a file and open it to write. Raises FileExistsError where anything has that name, also a link; OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    return os.fdopen(descriptor, "wb", buffering)


def open_append(path: Path, mode: int = 0o666, makes: bool = True) -> int:
    """A descriptor that appends to a file of the user's own; ``makes`` one where there is none. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags | (os.O_CREAT if makes else 0), mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnfitFileError(error.errno, NOT_A_LINK, str(path)) from None
        if error.errno == errno.ENXIO:  # a FIFO that nobody reads, or a socket
            raise not_regular(path) from None
        raise
    try:
        _check_own(path, os.fstat(descriptor))
    except UnfitFileError:
        os.close(descriptor)
        raise
    os.set_blocking(descriptor, True)
    return descriptor


def _check_own(path: Path, there: os.stat_result) -> None:
    if not stat.S_ISREG(there.st_mode):
        raise not_regular(path)
    if there.st_uid != os.geteuid():
        raise UnfitFileError(errno.EPERM, "it must not be another user's: remove it", str(path))
    # Where the kernel lets them (fs.protected_hardlinks = 0), others make hard links of files that are not theirs.
    if there.st_nlink > 1:
        raise UnfitFileError(errno.EMLINK, "it must have no other name (a hard link): remove it", str(path))


@contextmanager
def replacing(path: Path, mode: int = 0o666, buffering: int = -1) -> Iterator[BinaryIO]:
    """Open a new file that takes the place of whatever has that name, in one step, once it is written.

    After an error, what was there stays. Raises OSError.
    """
    draft = temporary_name(path)
    try:
        with open_new(draft, mode, buffering) as file:
            yield file
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def make_mark(path: Path) -> None:
    """Make an empty file that says something by being there, or make it again, with its time. Raises OSError."""
    with replacing(path, 0o644):
        pass


def make_folder(path: Path) -> None:
    """Make a folder in which only its owner writes, whatever the umask, or take the one that is there.

    Raises OSError where that is a link.
    """
    with suppress(FileExistsError):
        path.mkdir(0o755)
    if not stat.S_ISDIR(path.lstat().st_mode):
        raise UnfitFileError(errno.ENOTDIR, "it must be a folder, not a link or a file", str(path))


def temporary_name(path: Path) -> Path:
    """A name in the folder of ``path`` that no other writer uses, on this host or another."""
    return path.with_name(f".{path.name}.{os.urandom(6).hex()}")


def append_to(path: Path, content: bytes) -> None:
    """Add to the end of a file of the user's own, in one write. Raises OSError."""
    descriptor = open_append(path, makes=False)
    with os.fdopen(descriptor, "ab", buffering=0) as file:
        file.write(content)
