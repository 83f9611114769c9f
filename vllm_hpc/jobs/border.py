"""Where errors leave the methods of Job: in Python's words, but in the shell's where the command line called them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from importlib import import_module
from typing import ParamSpec, TypeVar

from vllm_hpc.spec.errors import VllmHpcError

Given = ParamSpec("Given")
Result = TypeVar("Result")


class _Speech:
    """Who asks in this process: the command line, if ``of_the_shell``."""

    of_the_shell = False


@contextmanager
def in_the_shells_words() -> Iterator[None]:
    """Within it, errors keep the words of the command line (``--rank``)."""
    before, _Speech.of_the_shell = _Speech.of_the_shell, True
    try:
        yield
    finally:
        _Speech.of_the_shell = before


def at_the_border(method: Callable[Given, Result]) -> Callable[Given, Result]:
    """Word anew, and without the frames below, the errors of vllm-hpc that a method lets through (api/errors.py)."""

    @wraps(method)
    def call(*args: Given.args, **options: Given.kwargs) -> Result:
        try:
            return method(*args, **options)
        except VllmHpcError as error:
            if _Speech.of_the_shell:
                raise
            worded: VllmHpcError = import_module("vllm_hpc.api.errors").as_python_says(error)  # a later room, by name
            raise worded from None

    return call
