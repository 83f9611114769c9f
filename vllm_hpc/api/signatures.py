"""Signatures written out: what ``**options: Unpack[Options]`` is, for ``inspect.signature``, ``help`` and IPython."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from functools import cache, reduce
from operator import or_
from types import UnionType
from typing import Any, SupportsFloat, SupportsIndex, TypeVar, Union, get_args, get_origin, get_type_hints

from vllm_hpc.api.options import Options

Function = TypeVar("Function", bound=Callable[..., Any])
_WIDTH = 100


@cache
def help_lines() -> dict[str, str]:
    """Each option with its line of help."""
    return {name: get_args(hint)[-1] for name, hint in get_type_hints(Options, include_extras=True).items()}


def documented(function: Function) -> Function:
    """Give a function that takes ``Options`` a signature and a docstring with each of them."""
    found = inspect.signature(function)
    named = [one for one in found.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    taken = {one.name for one in named}
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_shown(kind))
        for name, kind in get_type_hints(Options).items()
        if name not in taken
    ]
    function.__signature__ = found.replace(parameters=[*named, *more])  # type: ignore[attr-defined]
    lines = "\n".join(_line(one.name) for one in more)
    function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions (None is not given):\n{lines}"
    return function


def _shown(kind: Any) -> Any:
    """A type without the protocols of numbers, which say to type checkers that NumPy's are taken, too."""
    kept = [one for one in get_args(kind) if one not in (SupportsIndex, SupportsFloat)]
    return reduce(or_, kept) if get_origin(kind) in (UnionType, Union) else kind


def _line(name: str) -> str:
    return textwrap.fill(f"{name}: {help_lines()[name]}", _WIDTH, initial_indent="    ", subsequent_indent=" " * 8)
