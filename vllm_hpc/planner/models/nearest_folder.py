"""The existing folder that a mistyped path may mean, part by part: ``./modles/lama`` is ``./models/llama``."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

_MOST_NAMED = 5
_MOST_LISTED = 1000  # files and folders that are looked at


def nearest_folder(text: str, likeness: float = 0.6) -> str | None:
    """The existing folder whose path is most like ``text``, written as ``text`` is; None if there is none.

    ``likeness`` is that of each name, from 0 to 1, as difflib measures it.
    """
    parts = [part for part in text.split("/") if part]
    found = "/" if text.startswith("/") else ""
    for part in parts:
        name = part if is_folder(found + part) else nearest_name(part, _folders_in(found or "."), likeness)
        if name is None:
            return None
        found += f"{name}/"
    nearest = found.rstrip("/")
    return nearest if nearest and nearest != text.rstrip("/") else None


def folders_in(text: str) -> str:
    """The folders in a folder, as a part of a sentence; empty if it has none."""
    names = sorted(_folders_in(text))
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(repr, names[:_MOST_NAMED])) + more


def is_folder(text: str) -> bool:
    """Whether a folder is there and can be seen."""
    try:
        return Path(text).expanduser().is_dir()
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of an unknown user, a NUL
        return False


def link_target(text: str) -> str:
    """Where a link points; empty for anything else."""
    try:
        return os.readlink(Path(text).expanduser())  # noqa: PTH115 - as it was written
    except (OSError, RuntimeError, ValueError):
        return ""


def _folders_in(text: str) -> list[str]:
    """Names of the folders that are not hidden; of a very large folder, of some."""
    try:
        with os.scandir(Path(text).expanduser()) as entries:
            return [one.name for one in islice(entries, _MOST_LISTED) if one.is_dir() and not one.name.startswith(".")]
    except (OSError, RuntimeError, ValueError):
        return []


def nearest_name(name: str, names: list[str], likeness: float = 0.6) -> str | None:
    """The most similar name, whatever the case: 'llama-8B' is most like 'Llama-8B'."""
    import difflib

    by_lower = {one.lower(): one for one in sorted(names)}
    near = difflib.get_close_matches(name.lower(), sorted(by_lower), n=1, cutoff=likeness)
    return by_lower[near[0]] if near else None
