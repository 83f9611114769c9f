"""Reads one object from a JSON file as transformers and vLLM do, with Python's own json module.

That takes what many writers produce and strict parsers refuse: NaN and Infinity, whole numbers of any size, a key that
stands twice (the last one counts).
"""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from vllm_hpc.spec.errors import ModelError
from vllm_hpc.spec.read_file import open_regular, read_regular

MOST_BYTES = 64 << 20  # of a JSON file; the largest tokenizers have some ten million


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError if it cannot be read, is larger than MOST_BYTES, or is no object."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ModelError(f"{str(path)!r}: too large ({size} bytes): copy the model again")
        content = json.loads(read_regular(path, MOST_BYTES).removeprefix(codecs.BOM_UTF8).decode("utf-8"))
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}: {error.strerror}: copy the model again") from None
    except UnicodeDecodeError:
        raise ModelError(f"{str(path)!r}: not UTF-8 text: copy the model again") from None
    except (ValueError, RecursionError) as error:  # ValueError: also a number of more than 4300 digits
        raise ModelError(f"{str(path)!r}: not valid JSON ({error}): copy the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{str(path)!r}: must be one JSON object: copy the model again")
    return content


def starts_with_mark(path: Path) -> bool:
    """Whether a file that was just read begins with a byte order mark, as some editors of Windows write it."""
    with open_regular(path) as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
