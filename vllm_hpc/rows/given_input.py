"""What a caller in Python gives as ``input``: names of files, or the rows themselves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm_hpc.rows.find import SUFFIXES, has_pattern
from vllm_hpc.rows.from_memory import recognise
from vllm_hpc.rows.input_file import STDIN, split_suffix
from vllm_hpc.rows.kept_rows import find_kept, keep_rows
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.prompt_options import Files, with_columns

_LONGEST_SHOWN = 40


@contextmanager
def rows_in(options: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options of which the input is one or several names: rows from memory are kept, and named, until they were read.

    What plans or renders the job must begin to read them inside. A list of texts is files only if each looks like one.
    Raises InputError, RequestError; and whatever the caller's iterator of rows raises.
    """
    given = options.get("input")
    _check_text(given)
    if given is None or isinstance(given, Files) or _are_files(given):
        yield options
        return
    asked = with_columns({key: value for key, value in options.items() if value is not None})
    wanted = [name for key in ("id_column", "prompt_column") if isinstance(name := asked.get(key), str)]
    kept = asked.get("keep")
    kept = kept if isinstance(kept, list | tuple) and all(isinstance(name, str) for name in kept) else None
    rows = recognise(given, [*wanted, *(kept or ())])
    if rows is None:
        yield options  # refused by its type
        return
    held = keep_rows(rows, kept, [*wanted, *(asked.get("rename") or ())])
    yield {**options, "input": held.text}


def _check_text(given: Any) -> None:
    """Refuse a prompt where a file's name is expected. Raises RequestError."""
    if not isinstance(given, str) or find_kept(given) is not None or not any(map(str.isspace, given.strip())):
        return
    is_pattern = has_pattern(given) and any(sign in given for sign in "*/")  # a question ends like a pattern
    if not _names_file(given) and not is_pattern:
        shown = given if len(given) <= _LONGEST_SHOWN else f"{given[:_LONGEST_SHOWN]}..."
        raise RequestError(
            f"input {shown!r} is not a file: to run a text itself, write it as a list, input=[{shown!r}]"
        )


def _are_files(given: Any) -> bool:
    """Whether a value names files: a path, or a list of them. Raises RequestError for files beside prompts."""
    if isinstance(given, str | os.PathLike):
        return True
    if not isinstance(given, list | tuple) or not given:
        return False
    if not all(isinstance(one, str | os.PathLike) for one in given):
        return False
    return _all_files(given)


def _all_files(given: list[Any] | tuple[Any, ...]) -> bool:
    named = [isinstance(one, os.PathLike) or _names_file(one) for one in given]
    if all(named):
        return True
    place = next((place for place, one in enumerate(given) if named[place] and _is_data(one)), None)
    if place is None:
        return False
    other = named.index(False)
    raise RequestError(
        f"input[{place}] is the file {os.fspath(given[place])!r}, but input[{other}] is none: give files, or "
        'prompts; a prompt that is also the name of a file is written {"prompt": ...}'
    )


def _names_file(text: str) -> bool:
    """Whether a text looks like the name of an input, or is one."""
    if text == STDIN:
        return True
    if "\n" in text or len(text) > os.pathconf("/", "PC_PATH_MAX"):
        return False
    try:
        return split_suffix(Path(text))[0] in SUFFIXES or (
            bool(text.strip()) and os.path.lexists(Path(text).expanduser())
        )
    except (OSError, RuntimeError, ValueError):  # the home of an unknown user, a NUL
        return False


def _is_data(given: Any) -> bool:
    return isinstance(given, os.PathLike) or (split_suffix(Path(given))[0] in SUFFIXES and Path(given).is_file())
