"""Finds what stands in a list twice, in one pass: a list may be as long as a hostile file makes it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import TypeVar

T = TypeVar("T", bound=Hashable)


def first_repeated(values: Iterable[T]) -> T | None:
    """The first value that stood there before; None if there is none."""
    seen: set[T] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None
