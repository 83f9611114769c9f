"""Whose files may say what is run as this user: profiles, templates, and of a job.toml what runs code.

These are the user's own, root's, and those of ``trusted_owners``, a list of names or uids at the top of the user's or
the site's config file: a PI, a software account. Nobody else may be able to write to such a file.
"""

from __future__ import annotations

import errno
import os
import pwd
from pathlib import Path
from typing import Any, NamedTuple

from vllm_hpc.spec.config_files import settled_files
from vllm_hpc.spec.errors import ProfileError
from vllm_hpc.spec.ownership import is_writable_by_others, user_name
from vllm_hpc.spec.read_file import open_regular
from vllm_hpc.spec.toml_file import MOST_BYTES, parse_toml

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
    if len(content) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it must be at most {MOST_BYTES >> 10} KiB")
    return content


def read_judged(path: Path) -> tuple[bytes, Distrust | None]:
    """Read a regular file, with the reason why what it says must not be run. Raises ProfileError, OSError."""
    with open_regular(path) as file:
        distrust = _distrust(path, os.fstat(file.fileno()))
        return file.read(MOST_BYTES + 1), distrust


def owner_of(path: Path) -> str | None:
    """The name of the other user whose file it is; None for the user's own. Raises OSError."""
    owner = path.stat().st_uid
    return None if owner == os.geteuid() else user_name(owner)


def check_trusted_owners(value: Any) -> None:
    """Check the value of the key. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(one, str | int) for one in value) or True in value:
        raise ValueError(f"'{TRUSTED_OWNERS}' {_ADVICE}")


def _distrust(path: Path, there: os.stat_result) -> Distrust | None:
    # Whoever made a link chose the file.
    for owner in (there.st_uid, path.lstat().st_uid):
        if owner not in (0, os.geteuid()) and owner not in _trusted():
            name = user_name(owner)
            written = name if name == str(owner) else f'"{name}"'
            return Distrust(
                f"{str(path)!r} belongs to another user ({name})",
                f"if what they write may run as you, add {TRUSTED_OWNERS} = [{written}] to {_where()}, or "
                "make a copy of your own",
            )
    if is_writable_by_others(there):
        whom = "" if there.st_uid == os.geteuid() else f"have {user_name(there.st_uid)} "
        return Distrust(f"others can write to {str(path)!r}", f"{whom}'chmod go-w' it, if you trust what it says")
    return None


def _where() -> str:
    """The file in which the user says whom they trust."""
    return next(map(str, settled_files()), "the site's config file")


def _trusted() -> frozenset[int]:
    """The uids of ``trusted_owners``. Raises ProfileError."""
    return frozenset(uid for path in settled_files() for uid in _trusted_by(path))


def _trusted_by(path: Path) -> list[int]:
    """Those of one file, which only the user or root may have written, and nobody else can."""
    try:
        with open_regular(path) as file:
            there, content = os.fstat(file.fileno()), file.read(MOST_BYTES + 1)
    except OSError:  # reading profiles says so
        return []
    if there.st_uid not in (0, os.geteuid()) or is_writable_by_others(there) or len(content) > MOST_BYTES:
        return []
    try:
        names = parse_toml(content, path).get(TRUSTED_OWNERS, [])
        check_trusted_owners(names)
    except ValueError as error:
        raise ProfileError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    return [_uid(path, name) for name in names]


def _uid(path: Path, name: str | int) -> int:
    try:
        return name if isinstance(name, int) else pwd.getpwnam(name).pw_uid
    except (KeyError, ValueError):
        raise ProfileError(f"{path}: '{TRUSTED_OWNERS}': no user is called {name!r} here: correct it") from None
