"""Reads TOML files (job.toml, profiles) with errors that name the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vllm_hpc.spec.read_file import read_regular

# Thousands of profiles; tomllib takes seconds for more.
_MOST_BYTES = 4 * 2**20


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ValueError, which says what is wrong in which file, and OSError."""
    text = read_regular(path, _MOST_BYTES)
    import tomllib  # only if there is a file: to import it takes longer than to look for one

    try:
        return tomllib.loads(text.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None
