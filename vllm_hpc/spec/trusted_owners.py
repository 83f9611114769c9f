"""Whose files may say what is run as this user: profiles, templates, and of a job.toml what runs code.

These are the user's own, root's, and those of ``trusted_owners``, a list of names or uids at the top of the user's or
the site's config file: a PI, a software account. Nobody else may be able to write to such a file.
"""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from vllm_hpc.spec.config_files import settled_files
from vllm_hpc.spec.errors import ProfileError
from vllm_hpc.spec.links import Reached, open_noting_links
from vllm_hpc.spec.ownership import check_is_meant, is_fixed, is_writable_by_others, user_name
from vllm_hpc.spec.read_file import read_whole
from vllm_hpc.spec.toml_file import MOST_BYTES, parse_toml
from vllm_hpc.spec.user_namespace import SYSTEM_FOLDERS, is_hidden

TRUSTED_OWNERS = "trusted_owners"
_ADVICE = f'must be a list of names or uids of users, such as {TRUSTED_OWNERS} = ["alice"]'


class NotTrustedError(OSError):
    """A file that somebody else owns or can write to; the message says who, and what to do."""


class Distrust(NamedTuple):
    """Why what a file says must not be run: ``fact``; and what to do, if it should."""

    fact: str
    advice: str

    def __str__(self) -> str:
        return f"{self.fact}: {self.advice}"


def read_trusted(path: Path) -> bytes:
    """Read a regular file that the user, root or a trusted owner has written, and nobody else can write to.

    Raises NotTrustedError, ProfileError for a wrong ``trusted_owners``, and OSError.
    """
    content, distrust = read_judged(path)
    if distrust:
        raise NotTrustedError(str(distrust))
    return content


def read_judged(path: Path) -> tuple[bytes, Distrust | None]:
    """Read a regular file, with the reason why what it says must not be run. Raises ProfileError, OSError."""
    reached = open_noting_links(path)
    with reached.file as file:
        return read_whole(file, path, MOST_BYTES), _distrust(path, reached)


def read_code(path: Path, most: int) -> tuple[bytes, Distrust | None]:
    """Read code that the user has named, to run and to copy it, with the reason why others may have written it.

    Raises NotMineError if another user's link led to a file of the user's own, ProfileError, OSError.
    """
    reached = open_noting_links(path)
    with reached.file as file:
        check_is_meant(path, file.fileno())
        return read_whole(file, path, most), _distrust(path, reached)


def owner_of(path: Path) -> str | None:
    """The name of the other user whose file it is; None for the user's own. Raises OSError."""
    owner = path.stat().st_uid
    return None if owner == os.geteuid() else user_name(owner)


def check_trusted_owners(value: Any) -> None:
    """Check the value of the key. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(one, str | int) for one in value) or True in value:
        raise ValueError(f"'{TRUSTED_OWNERS}' {_ADVICE}")


def _distrust(path: Path, reached: Reached) -> Distrust | None:
    """Why not to trust a file, or a link on the way to it: whoever made that chose the file."""
    there = os.fstat(reached.file.fileno())
    for link, uid in reached.links:
        if not _is_trusted(uid, link):
            return _distrust_owner(f"the link {str(link)!r}", uid)
    if not _is_trusted(there.st_uid, reached.path):
        return _distrust_owner(repr(str(path)), there.st_uid)
    if is_writable_by_others(there):
        whom = "" if there.st_uid == os.geteuid() else f"have {user_name(there.st_uid)} "
        return Distrust(f"others can write to {str(path)!r}", f"{whom}'chmod go-w' it, if you trust what it says")
    return None


def _is_trusted(uid: int, path: Path) -> bool:
    return _is_settled(uid, path) or (not is_hidden(uid) and uid in _trusted())


def _is_settled(uid: int, path: Path) -> bool:
    """Whether what is at a path, which is without links, is the user's own or root's.

    Where this container does not show the owner, root's is what lies where nobody else makes files: as /home, a link.
    """
    if is_hidden(uid):
        is_of_system = path.parent == Path("/") or any(folder in path.parents for folder in SYSTEM_FOLDERS)
        return is_of_system and is_fixed(path.parent)
    return uid in (0, os.geteuid())


def _distrust_owner(what: str, uid: int) -> Distrust:
    if is_hidden(uid):
        return Distrust(f"{what} belongs to a user whom this container does not show", "make a copy of your own")
    name = user_name(uid)
    written = name if name == str(uid) else f'"{name}"'
    return Distrust(
        f"{what} belongs to another user ({name})",
        f"if what they write may run as you, add {TRUSTED_OWNERS} = [{written}] to {_where()}, or "
        "make a copy of your own",
    )


def _where() -> str:
    """The file in which the user says whom they trust."""
    for path in settled_files():
        with suppress(OSError):
            if is_writable_by_others(path.stat()):
                return f"{path}, and 'chmod go-w' that file, to which others can write"
        return str(path)
    return "the site's config file"


def _trusted() -> frozenset[int]:
    """The uids of ``trusted_owners``. Raises ProfileError."""
    return frozenset(uid for path in settled_files() for uid in _trusted_by(path))


def _trusted_by(path: Path) -> list[int]:
    """Those of one file, which only the user or root may have written, and nobody else can."""
    try:
        reached = open_noting_links(path)
        with reached.file as file:
            there, content = os.fstat(file.fileno()), read_whole(file, path, MOST_BYTES)
    except OSError:  # reading profiles says so
        return []
    made = (*reached.links, (reached.path, there.st_uid))
    if is_writable_by_others(there) or not all(_is_settled(uid, one) for one, uid in made):
        return []
    try:
        given = parse_toml(content, path)
        names = given.get(TRUSTED_OWNERS, [])
        _check_place(given)
        check_trusted_owners(names)
    except ValueError as error:
        raise ProfileError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return [_uid(path, name) for name in names]


def _check_place(given: dict[str, Any]) -> None:
    """Raises ValueError if the key stands below the header of a profile, where it would be that profile's."""
    profiles = given.get("profiles")
    for name, keys in profiles.items() if isinstance(profiles, dict) else ():
        if isinstance(keys, dict) and TRUSTED_OWNERS in keys:
            raise ValueError(f"'{TRUSTED_OWNERS}' must stand at the top of the file, not below [profiles.{name}]")


def _uid(path: Path, name: str | int) -> int:
    try:
        return name if isinstance(name, int) else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ProfileError(f"{path}: '{TRUSTED_OWNERS}': no user is called {name!r} here: correct it") from None
