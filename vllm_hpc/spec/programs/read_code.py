"""Reads code that the user has named: only regular files, and never what somebody else's link leads to."""

from __future__ import annotations

import os
from pathlib import Path

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.ownership import NotMineError
from vllm_hpc.spec.programs.source import MOST_BYTES
from vllm_hpc.spec.read_file import read_regular
from vllm_hpc.spec.trusted_owners import Distrust, read_code
from vllm_hpc.spec.values import as_path


def read_source(path: Path) -> bytes:
    """Read a file that a program imports, to look at. Raises OSError."""
    return read_regular(path, MOST_BYTES)


def read_named(text: str, option: str) -> tuple[Path, bytes, Distrust | None]:
    """The absolute path of a file that an option names, its content, and who else may have written it.

    Raises RequestError.
    """
    path = as_path(text, option)
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - links stay as the user wrote them
    try:
        content, distrust = read_code(absolute, MOST_BYTES)
    except NotMineError as error:
        raise RequestError(f"{option}: {error}") from None
    except OSError as error:
        raise RequestError(f"{option} {text!r} cannot be read: {error.strerror}: name a Python file") from None
    return absolute, content, distrust
