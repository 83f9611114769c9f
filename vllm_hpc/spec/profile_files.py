"""Reads the files that hold profiles: tables ``[profiles.NAME]``, each a layer of the profile of that name.

A profile says what is run as whoever submits: a file of another user is refused, unless that user is trusted
(spec/trusted_owners.py). The gallery's files are this package's own.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from vllm_hpc.spec.config_files import GALLERY, PROJECT_FILE, gallery_file, gallery_files, profile_files
from vllm_hpc.spec.errors import ProfileError
from vllm_hpc.spec.profile_checks import check_table
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.toml_file import parse_toml
from vllm_hpc.spec.toml_lines import line_of
from vllm_hpc.spec.trusted_owners import TRUSTED_OWNERS, check_trusted_owners, read_judged

# How many names an error lists.
_MOST_NAMES = 30


class Layer(NamedTuple):
    """The table of a profile in one file. ``text`` is the file's, for lines in messages."""

    file: Path
    name: str
    table: dict[str, Any]
    text: str

    def place(self, *keys: str) -> str:
        """FILE:LINE of a key of the table."""
        return f"{self.file}:{line_of(self.text, ('profiles', self.name, *keys))}"


class _File(NamedTuple):
    """A file with its tables."""

    path: Path
    tables: dict[str, Any]
    text: str


def layers_of(name: str) -> list[Layer]:
    """The layers of a profile, the lowest first. Raises ProfileError with file and line, also if there is none."""
    found = [_layer(file, name) for file in _files(name) if name in file.tables]
    if not found:
        raise ProfileError(_unknown(name))
    return found


def all_names() -> dict[str, list[Path]]:
    """Every profile's name, with its files, the highest first. Raises ProfileError."""
    names: dict[str, list[Path]] = {}
    for file in [*_own_files(None), *map(_packaged, gallery_files())]:
        for name in file.tables:
            names.setdefault(name, []).append(file.path)
    return names


def _files(name: str) -> list[_File]:
    """The files that may have that profile, the lowest first."""
    packaged = gallery_file(name) if name.startswith(GALLERY) else None
    return [*([_packaged(packaged)] if packaged else []), *reversed(_own_files(name))]


def _own_files(name: str | None) -> list[_File]:
    """The files other than the gallery's, the highest first, for the profile of that name, or all of them."""
    return [_read(path, name) for path in profile_files()]


def _packaged(path: Path) -> _File:
    content = read_regular(path)
    return _File(path, parse_toml(content, path)["profiles"], content.decode())


def _layer(file: _File, name: str) -> Layer:
    layer = Layer(file.path.absolute(), name, file.tables[name], file.text)
    if not isinstance(layer.table, dict):
        raise ProfileError(f"{layer.place()}: 'profiles.{name}' must be a table [profiles.{name}]")
    table = check_table(layer.table, layer.place, file.path.parent)
    return layer._replace(table=table)


def _unknown(name: str) -> str:
    where = " or ".join(str(path) for path in profile_files())
    known = sorted({one for file in _own_files(name) for one in file.tables})
    sites = [GALLERY + path.stem for path in gallery_files()]
    if near := get_close_matches(name.lower(), [*known, *sites], n=1, cutoff=0.75):
        return f"no profile {name!r} in {where}, or in the gallery: did you mean {near[0]!r}?"
    if name.startswith(GALLERY):
        return f"no profile {name!r} in the gallery: it has {', '.join(sites)}"
    shown = ", ".join([*known[:_MOST_NAMES], *(["..."] if len(known) > _MOST_NAMES else [])])
    hint = f"known: {shown}" if known else f"write a [profiles.{name}] table there"
    beside = f"; the gallery has {GALLERY + name}" if GALLERY + name in sites else ""
    return f"no profile {name!r} in {where}: {hint}{beside}"


def _read(path: Path, name: str | None) -> _File:
    """The profiles in a file; none if the file does not exist, or is not to be trusted and has none of that name."""
    try:
        raw, distrust = read_judged(path)
    except (FileNotFoundError, NotADirectoryError):
        if path.is_symlink():
            raise ProfileError(f"{path}: cannot be read: it is a link to a file that does not exist") from None
        return _File(path, {}, "")
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        content, text = parse_toml(raw, path), raw.decode("utf-8-sig")
    except ValueError as error:
        raise ProfileError(str(distrust or error)) from None
    if distrust:
        if _names(content, name):
            raise ProfileError(str(distrust))
        return _File(path, {}, "")
    _check_keys(path, content, text)
    tables = content.get("profiles", {})
    if not isinstance(tables, dict):
        raise ProfileError(f"{path}:{line_of(text, ('profiles',))}: 'profiles' must hold tables [profiles.NAME]")
    return _File(path, tables, text)


def _names(content: dict[str, Any], name: str | None) -> bool:
    """Whether a file has a profile of that name, or any, if that is asked."""
    tables = content.get("profiles")
    return bool(tables) if name is None or not isinstance(tables, dict) else name in tables


def _check_keys(path: Path, content: dict[str, Any], text: str) -> None:
    for key in content:
        if key not in ("profiles", TRUSTED_OWNERS):
            raise ProfileError(
                f"{path}:{line_of(text, (key,))}: unknown key '{key}': profiles are tables [profiles.NAME]"
            )
    if TRUSTED_OWNERS not in content:
        return
    place = f"{path}:{line_of(text, (TRUSTED_OWNERS,))}"
    if path == Path(PROJECT_FILE):
        raise ProfileError(
            f"{place}: '{TRUSTED_OWNERS}' must be in the user's or the site's file, not in the working directory's"
        )
    try:
        check_trusted_owners(content[TRUSTED_OWNERS])
    except ValueError as error:
        raise ProfileError(f"{place}: {error}") from None
