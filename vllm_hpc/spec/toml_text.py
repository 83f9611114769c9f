"""Writes values as TOML, and adds a profile to a file without touching what is there. tomllib only reads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.errors import FailedError, ProfileError
from vllm_hpc.spec.toml_file import parse_toml
from vllm_hpc.spec.trusted_owners import NotTrustedError, read_trusted
from vllm_hpc.spec.write_file import append_to, make_folder, open_new

_BARE = re.compile(r"[A-Za-z0-9_-]+")
# A gallery's profiles are called site/NAME.
_PROFILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


def toml_key(name: str) -> str:
    """A key, in quotes where it needs them."""
    return name if _BARE.fullmatch(name) else toml_value(name)


def toml_value(value: Any) -> str:
    """A value: a string, a number, true or false, a list, or a table on one line.

    Raises TypeError for what TOML has no form for, such as None.
    """
    if isinstance(value, msgspec.Struct):
        return toml_value({name: one for name, one in msgspec.structs.asdict(value).items() if one is not None})
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{"".join(_escaped(character) for character in value)}"'
        case int() | float():
            return repr(value)
        case list() | tuple():
            return f"[{', '.join(toml_value(one) for one in value)}]"
        case Mapping():
            inner = ", ".join(f"{toml_key(str(name))} = {toml_value(one)}" for name, one in value.items())
            return f"{{ {inner} }}" if inner else "{}"
    raise TypeError(f"TOML has no form for {value!r}")


def _escaped(character: str) -> str:
    """A character of a string: as it is if it can be seen, for a file is read by people, too."""
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    number = ord(character)
    if 0xD800 <= number < 0xE000:  # half of a pair, which TOML has no form for
        number = 0xFFFD
    return f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"


def toml_comment(text: str) -> str:
    """A comment of one line."""
    return f"# {''.join(one if one.isprintable() else ' ' for one in text)}".rstrip()


def check_profile_name(name: str) -> None:
    """Check a name for a new profile. Raises ProfileError."""
    if not _PROFILE_NAME.fullmatch(name):
        raise ProfileError(
            f"a profile's name must be letters, digits and '_.-' (at most 64), such as my_cluster, not {name!r}"
        )


def usable_name(name: str) -> str:
    """A name for a profile like this one, of a cluster."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-.")[:64] or "cluster"


def add_profile(path: Path, name: str, text: str) -> bool:
    """Write ``text``, the table of that profile, into a new file, or at the end of the one that is there.

    Returns whether the file is new. Raises ProfileError where it has that profile, or cannot take it as it is, and
    FailedError where it cannot be written.
    """
    try:
        before = _content(path)
    except (NotTrustedError, ValueError) as error:
        raise ProfileError(str(error)) from None
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if before is None:
            _make_folders(path.parent)
            with open_new(path, 0o644) as file:
                file.write(text.encode())
            return True
        append_to(path.resolve(), _addition(path, before, name, text))
        return False
    except OSError as error:
        raise FailedError(f"{path}: cannot be written: {error.strerror}") from None


def _make_folders(folder: Path) -> None:
    """Make a folder and those above it that are not there. Raises OSError."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        make_folder(one)


def _content(path: Path) -> bytes | None:
    """What is in the file; None if there is none. Raises ValueError, NotTrustedError, OSError."""
    try:
        return read_trusted(path)
    except FileNotFoundError:
        if path.is_symlink():
            raise ValueError(
                f"{path}: it is a link to a file that does not exist: remove it, or make the file"
            ) from None
        return None


def _addition(path: Path, before: bytes, name: str, text: str) -> bytes:
    """What to append, so that the file has what it had, and the profile. Raises ProfileError."""
    try:
        there = parse_toml(before, path)
    except ValueError as error:
        raise ProfileError(str(error)) from None
    profiles = there.get("profiles", {})
    if not isinstance(profiles, dict):
        raise ProfileError(f"{path}: 'profiles' must hold tables [profiles.NAME]")
    if name in profiles:
        raise ProfileError(f"{path}: has a profile {name!r} already: choose another NAME, or remove that table")
    gap = b"" if not before.strip() else b"\n" if before.endswith(b"\n") else b"\n\n"
    added = gap + text.encode()
    try:
        after = parse_toml(before + added, path)
        own = parse_toml(text.encode(), path)["profiles"][name]
    except (ValueError, KeyError):
        raise ProfileError(
            f"{path}: a table cannot be added at its end (profiles is written as {{ ... }}): "
            "write [profiles.NAME] tables there, or give another --output"
        ) from None
    if after != {**there, "profiles": {**profiles, name: own}}:
        raise ProfileError(f"{path}: a table cannot be added at its end: give another --output")
    return added
