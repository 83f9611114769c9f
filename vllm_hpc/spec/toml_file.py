"""Parses TOML files (job.toml, profiles) with errors that name the file.

One may be another user's, and neither hold up nor fill a login node.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# What a file may have, for whoever reads it. More than a thousand profiles, and read in a moment.
MOST_BYTES = 512 << 10
# tomllib takes the square of a key's parts (Python 3.11 to 3.14), in time and in memory. A key that is written in many
# parts is a long run of names, with or without quotes, and dots.
_MOST_PARTS = 32
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]|\\.)*+"|'[^'\n]*+')[ \t]*+"""
_LONG_KEY = re.compile(rf"(?<![\w\"'\\-]){_PART}(?:\.[ \t]*+{_PART}){{{_MOST_PARTS}}}")


def parse_toml(content: bytes, path: Path) -> dict[str, Any]:
    """The content of that file. Raises ValueError, which says what is wrong in it."""
    import tomllib  # only if there is a file: to import it takes longer than to look for one

    try:
        text = content.decode("utf-8-sig")
        if _LONG_KEY.search(text):
            raise ValueError(f"a key must have at most {_MOST_PARTS} parts")
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
