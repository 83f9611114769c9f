"""Opens a file and tells of every link on the way to it: whoever made one has chosen the file."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from vllm_hpc.spec.read_file import open_regular

_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as of the kernel (path_resolution(7))


class Reached(NamedTuple):
    """An open file, the path that it has without links, and of each link on the way the path and the owner's uid."""

    file: BinaryIO
    path: Path
    links: tuple[tuple[Path, int], ...]


def open_noting_links(path: Path) -> Reached:
    """Open a regular file to read it. Raises OSError.

    One step after another, each from where the last one led: nobody can put other links there in the meantime.
    """
    walk = _Walk(path)
    try:
        return walk.to_the_end()
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    finally:
        walk.close()


class _Walk:
    """The way to a file: the folder that is reached, and the parts of the path that are still to go."""

    def __init__(self, path: Path) -> None:
        self._here = Path("/") if path.is_absolute() else Path.cwd()
        self._folder = os.open(self._here if path.is_absolute() else ".", _FOLDER)
        self._to_go = list(reversed(path.parts))
        self._links: list[tuple[Path, int]] = []

    def close(self) -> None:
        os.close(self._folder)

    def to_the_end(self) -> Reached:
        while self._to_go:
            part = self._to_go.pop()
            if self._follow(part):
                continue
            if not self._to_go and part != "..":
                path = self._here / part
                return Reached(open_regular(path, follow_links=False, folder=self._folder), path, tuple(self._links))
            self._enter(part)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))

    def _follow(self, part: str) -> bool:
        """Go on with what a link says, if it is one."""
        link = os.open(part, _LINK, dir_fd=self._folder)
        try:
            there = os.fstat(link)
            if not stat.S_ISLNK(there.st_mode):
                return False
            self._links.append((self._here / part, there.st_uid))
            if len(self._links) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            self._to_go += reversed(Path(os.readlink("", dir_fd=link)).parts)
            return True
        finally:
            os.close(link)

    def _enter(self, part: str) -> None:
        folder = os.open(part, _FOLDER, dir_fd=self._folder)
        os.close(self._folder)
        self._folder = folder
        self._here = Path("/") if part == "/" else self._here.parent if part == ".." else self._here / part
