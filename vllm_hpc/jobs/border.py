"""Where errors leave the methods of Job: in Python's words, but in the shell's where the command line called them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
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
            raise _worded(error) from None

    return call


def each_at_the_border(method: Callable[Given, Iterator[Result]]) -> Callable[Given, Iterator[Result]]:
    """The same for a method that returns an iterator, and for the errors of that."""
    begin = at_the_border(method)

    @wraps(method)
    def call(*args: Given.args, **options: Given.kwargs) -> Iterator[Result]:
        return _each(begin(*args, **options))

    return call


def each_awaited_at_the_border(
    method: Callable[Given, AsyncGenerator[Result, None]],
) -> Callable[Given, AsyncGenerator[Result, None]]:
    """The same for ``async for``."""
    begin = at_the_border(method)

    @wraps(method)
    def call(*args: Given.args, **options: Given.kwargs) -> AsyncGenerator[Result, None]:
        return _each_awaited(begin(*args, **options))

    return call


def _each(found: Iterator[Result]) -> Iterator[Result]:
    try:
        yield from found
    except VllmHpcError as error:
        if _Speech.of_the_shell:
            raise
        raise _worded(error) from None


async def _each_awaited(found: AsyncGenerator[Result, None]) -> AsyncGenerator[Result, None]:
    try:
        async with aclosing(found):
            async for one in found:
                yield one
    except VllmHpcError as error:
        if _Speech.of_the_shell:
            raise
        raise _worded(error) from None


def _worded(error: VllmHpcError) -> VllmHpcError:
    worded: VllmHpcError = import_module("vllm_hpc.api.errors").as_python_says(error)  # a later room, by name
    return worded
