"""Finds the line of a key in a TOML file, for messages: tomllib gives no positions."""

from __future__ import annotations

import re

_PART = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_KEY = rf"{_PART}(?:\s*\.\s*{_PART})*"
_HEADER = re.compile(rf"\s*\[+\s*({_KEY})\s*\]+")
_ENTRY = re.compile(rf"\s*({_KEY})\s*=")


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line (from 1) of that key, such as ("profiles", "a", "env", "X"), or of what it stands in.

    Headers and keys start a line in nearly all files, which is enough here; within an inline table it is that table's.
    """
    table: tuple[str, ...] = ()
    best, line = 0, 1
    for number, given in enumerate(text.splitlines(), start=1):
        header = _HEADER.match(given)
        entry = None if header else _ENTRY.match(given)
        if header:
            table = _parts(header[1])
        found = table if header else (*table, *_parts(entry[1])) if entry else ()
        length = len(found) if path[: len(found)] == found else len(path) if found[: len(path)] == path else 0
        if length > best:
            best, line = length, number
    return line


def _parts(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))
