"""Reads TOML files (job.toml, profiles) with errors that name the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ValueError, which says what is wrong in which file, and OSError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
