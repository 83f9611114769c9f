"""The copy of a user's code in the job folder: as it was submitted, or it is not run."""

from __future__ import annotations

import hashlib
import importlib.util
import linecache
import traceback
from pathlib import Path
from types import CodeType

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.read_file import read_regular


def read_copy(path: Path, sha256: str) -> bytes:
    """The content of a copy in the job folder. Raises RequestError if it is not what was submitted, or not there."""
    try:
        content = read_regular(path, follow_links=False)
    except OSError as error:
        raise RequestError(f"cannot read {str(path)!r}: {error.strerror}: submit a new job") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise RequestError(f"{str(path)!r} was changed since the job was submitted: submit a new job")
    return content


def compile_copy(content: bytes, source: str) -> CodeType:
    """The code of a copy, under the name of the file that it was made of: tracebacks show the copy's lines.

    Raises SyntaxError, ValueError.
    """
    code = compile(content, source, "exec", dont_inherit=True)
    lines = importlib.util.decode_source(content).splitlines(keepends=True)
    # Without a time, linecache never looks into the file, which may have been changed or be elsewhere.
    linecache.cache[source] = (len(content), None, lines, source)
    return code


def line_of(error: BaseException, source: str) -> str:
    """Where in the user's file an error came from, as "file.py:12": its innermost line there; "" if it did not.

    Python's own words for a syntax error say that already.
    """
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == source]
    return f"{Path(source).name}:{lines[-1]}" if lines else ""
