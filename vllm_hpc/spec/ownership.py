"""Whether something on disk is the user's alone: what others can write is neither executed nor obeyed."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO

from vllm_hpc.spec.read_file import UnfitFileError, open_regular, read_whole
from vllm_hpc.spec.user_namespace import COMMON_FOLDERS, is_hidden
from vllm_hpc.spec.write_file import open_new

# As the kernel follows them (path_resolution(7)).
_MOST_LINKS = 40


class NotMineError(OSError):
    """A file that somebody else owns or can write to, or that is no regular file; the message says which."""


def is_writable_by_others(there: os.stat_result) -> bool:
    """Whether anybody but the owner and the user may write.

    A group that has the name of one of them and no other member counts as that user: distributions that give everyone
    such a group also give them the umask 002 (as OpenSSH on Debian, user-group-modes.patch). Members that the name
    service does not list are not seen: SSSD lists none of a group with ignore_group_members, and of the users with that
    primary group only those of /etc/passwd, unless it has 'enumerate = true'.
    """
    if there.st_mode & stat.S_IWOTH:
        return True
    owners = {uid for uid in (there.st_uid, os.geteuid()) if not is_hidden(uid)}
    return bool(there.st_mode & stat.S_IWGRP) and not any(_is_own_group(there.st_gid, one) for one in owners)


def is_mine_alone(folder: Path) -> bool:
    """Whether an existing folder is the user's alone, and nobody else can put another one in its place.

    A link is the user's own, as to a larger disk, and what it leads to is the user's alone as well. Raises OSError.
    """
    there = folder.lstat()
    if there.st_uid != os.geteuid() or not is_fixed(folder.parent.resolve(strict=True)):
        return False
    if stat.S_ISLNK(there.st_mode):
        return is_mine_alone(folder.resolve(strict=True))
    return stat.S_ISDIR(there.st_mode) and not is_writable_by_others(there)


def is_fixed(folder: Path) -> bool:
    """Whether nobody but the user and root can rename or replace what is in the folder, or in one above it.

    ``folder`` is without links. Raises OSError.
    """
    for one in reversed((folder, *folder.parents)):
        status = one.stat()
        if not _may_hold_mine(one, status):
            return False
        if status.st_uid == os.geteuid() and not status.st_mode & 0o011:  # nobody gets to what is below
            return True
    return True


def _may_hold_mine(folder: Path, there: os.stat_result) -> bool:
    """Whether nobody but the user and root can rename what the user has in this folder.

    Where the owner is hidden, root is believed to have made a folder of the user's in one that only its owner writes.
    """
    is_sticky = bool(there.st_mode & stat.S_ISVTX)
    if is_hidden(there.st_uid):
        return not is_writable_by_others(there) or (is_sticky and folder in COMMON_FOLDERS)
    return there.st_uid in (0, os.geteuid()) and (is_sticky or not is_writable_by_others(there))


# Why this file must not be run or obeyed by this user; None if it may.
WhyNot = Callable[[Path, os.stat_result], str | None]


def why_foreign(path: Path, there: os.stat_result) -> str | None:
    """Because it belongs to another user."""
    if there.st_uid != os.geteuid():
        return f"{str(path)!r} belongs to another user ({user_name(there.st_uid)})"
    return None


def why_not_mine(path: Path, there: os.stat_result) -> str | None:
    """Because it belongs to another user, or others can write to it."""
    if is_writable_by_others(there) and there.st_uid == os.geteuid():
        return f"others can write to {str(path)!r}: 'chmod go-w' it, if you trust what it says"
    return why_foreign(path, there)


def open_mine(path: Path, why_not: WhyNot = why_not_mine) -> BinaryIO:
    """Open a file of the user's own that nobody else can write. Raises NotMineError, OSError.

    What is checked is what is read: the open file, which is not a link and is not waited for, as a FIFO would be.
    """
    try:
        file = open_regular(path, follow_links=False)
    except UnfitFileError as error:
        raise NotMineError(f"{str(path)!r} cannot be used: {error.strerror}") from None
    if reason := why_not(path, os.fstat(file.fileno())):
        file.close()
        raise NotMineError(reason)
    return file


def read_mine(path: Path, why_not: WhyNot = why_not_mine) -> bytes:
    """Read such a file, of at most 64 MiB. Raises NotMineError, OSError."""
    with open_mine(path, why_not) as file:
        try:
            return read_whole(file, path)
        except UnfitFileError as error:
            raise NotMineError(f"{str(path)!r} cannot be used: {error.strerror}") from None


def check_is_meant(path: Path, descriptor: int) -> None:
    """Refuse an open file of the user's own if another user's link led to it: they cannot read it, but have it copied.

    Raises NotMineError, OSError.
    """
    found = os.fstat(descriptor)
    if found.st_uid != os.geteuid():
        return
    end, makers = _follow(path)
    foreign = [maker for maker in makers if maker not in (0, os.geteuid())]
    if foreign or not os.path.samestat(found, end.lstat()):
        who = f"another user ({user_name(foreign[0])})" if foreign else "somebody who changed it meanwhile"
        raise NotMineError(f"{str(path)!r} is a link of {who} to your own {str(end)!r}: name that, if you mean it")


def _follow(path: Path) -> tuple[Path, list[int]]:
    """Where a path leads, and who made the links on the way. Raises OSError."""
    left, place, makers = list(reversed(Path(os.path.abspath(path)).parts)), Path("/"), list[int]()  # noqa: PTH100
    while left:
        place = place.parent if (part := left.pop()) == ".." else place / part
        there = place.lstat()
        if stat.S_ISLNK(there.st_mode):
            makers.append(there.st_uid)
            if len(makers) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
            left += reversed(place.readlink().parts)
            place = place.parent
    return place, makers


def write_mine(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a new file to which only its owner can write, whatever the umask: a project's may let its group.

    Raises OSError.
    """
    with open_new(path, mode) as file:
        file.write(content)


@cache
def _is_own_group(group: int, uid: int) -> bool:
    try:
        user, entry = pwd.getpwuid(uid), grp.getgrgid(group)
    except KeyError:
        return False
    is_named_so = group == user.pw_gid and entry.gr_name == user.pw_name and set(entry.gr_mem) <= {user.pw_name}
    return is_named_so and _listed_members(group) <= {uid}


@cache
def _listed_members(group: int) -> set[int]:
    """The uids of the users that are listed with this primary group, which need not be in gr_mem."""
    return {user.pw_uid for user in pwd.getpwall() if user.pw_gid == group}


def user_name(uid: int) -> str:
    """The user's name, or the number of one that this machine does not know."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
