"""TOML files, as job.toml and profiles are read: the error names the file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ValueError, which names the file and what is wrong with it, and OSError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
