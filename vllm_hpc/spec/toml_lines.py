"""Finds the line of a key in a TOML file, for messages: tomllib gives no positions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_PART = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[+\s*({_KEY})\s*\]+")
_ENTRY = re.compile(rf"\s*({_KEY})\s*=")


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line (from 1) of that key, such as ("profiles", "a", "env", "X"), or of what it stands in.

    Headers and keys start a line in nearly all files, which is enough here; within an inline table it is that table's.
    """
    places = _places(text)
    if path in places.within:
        return places.within[path]
    return next((places.keys[above] for above in _above(path) if above in places.keys), 1)


class _Places(NamedTuple):
    """The first line of each table and key, and the first with something of it: of ``a.b = 1``, ``a`` has that."""

    keys: dict[tuple[str, ...], int]
    within: dict[tuple[str, ...], int]


@lru_cache(maxsize=8)  # each key of a layer asks for its line
def _places(text: str) -> _Places:
    table: tuple[str, ...] = ()
    places = _Places({}, {})
    for number, given in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(given)
        entry = None if header else _ENTRY.match(given)
        if header:
            table = _parts(header[1])
        found = table if header else (*table, *_parts(entry[1])) if entry else ()
        if found:
            places.keys.setdefault(found, number)
            for key in (found, *_above(found)):
                places.within.setdefault(key, number)
    return places


def _above(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """What a key stands in, the nearest first."""
    return (path[:length] for length in range(len(path) - 1, 0, -1))


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))
