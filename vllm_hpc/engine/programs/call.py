"""Calls a part of a program: setup, on_output, run, teardown."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def call_part(name: str, part: Callable[..., Any], *given: Any) -> Any:
    """What it returns. Raises what it raises, and TypeError if it only made a coroutine or a generator."""
    found = part(*given)
    if inspect.iscoroutine(found) or inspect.isgenerator(found) or inspect.isasyncgen(found):
        raise TypeError(f"{name} returned a {type(found).__name__}, of which nothing has run: make it a plain method")
    return found


def call_beside_rows(name: str, part: Callable[..., Any], *given: Any) -> Any:
    """The same where rows go on after it. Raises RuntimeError for sys.exit(): the other ranks would wait for this one.

    The error has the traceback of the exit, which says where in the program it was.
    """
    try:
        return call_part(name, part, *given)
    except SystemExit as ended:
        said = f"{name} called sys.exit({'' if ended.code is None else repr(ended.code)[:80]})"
        error = RuntimeError(f"{said}, but the job's rows go on: return, or raise an error")
        raise error.with_traceback(ended.__traceback__) from None
