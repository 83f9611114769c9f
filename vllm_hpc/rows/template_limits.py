"""What a prompt template may take for one row: the size of each value, the bytes of all together, steps and seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from typing import Any, TypeVar, cast

from jinja2.exceptions import SecurityError

# Characters of a prompt, and of any value on the way to it: vLLM's longest contexts are a few million tokens.
MOST_CHARACTERS = 16 << 20
# Steps of all loops together, seconds, and bytes of all values that are made, of one row. Also items of one value.
MOST_STEPS = 1_000_000
MOST_SECONDS = 20.0
MOST_BYTES = 512 << 20
# Characters to look for or to strip, where Python compares each with each.
MOST_SOUGHT = 256
# Statements and expressions of a template; they are compiled, which takes about 10 KiB for each.
MOST_NODES = 20_000
# Bits of a number to compute with, digits of one to read, and places to round to.
_MOST_BITS = 4096
_MOST_DIGITS = 4300
_MOST_PLACES = 100
# Of an item in a list.
_ITEM_BYTES = 64
_LISTS: tuple[type, ...] = (list, tuple, type({}.items()), type({}.keys()), type({}.values()))

T = TypeVar("T")


def _exceeded(words: str) -> SecurityError:
    return SecurityError(f"{words}: use less of the row, such as a part of a text or a list")


class Limits:
    """Counts what one row takes; each method raises SecurityError when that is too much. ``begin`` before each row.

    No call of a filter, method or operator may take more than about a second or make much more than it is allowed to
    return, for Python cannot interrupt it: whatever could is checked before.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Start a row."""
        self._steps = self._bytes = 0
        self._until = time.monotonic() + MOST_SECONDS

    def tick(self) -> None:
        """An operation."""
        if time.monotonic() > self._until:
            raise _exceeded(f"it takes more than {MOST_SECONDS:g} s")

    def step(self) -> None:
        """One item of a loop, or of a filter that goes over items."""
        self._steps += 1
        if self._steps > MOST_STEPS:
            raise _exceeded(f"its loops take more than {MOST_STEPS:,} steps")
        self.tick()

    def fits(self, characters: int, items: int = 0) -> None:
        """The size of a value that is made, or that will be."""
        if characters > MOST_CHARACTERS:
            raise _exceeded(f"it makes more than {MOST_CHARACTERS >> 20} Mi characters")
        if items > MOST_STEPS:
            raise _exceeded(f"it makes more than {MOST_STEPS:,} items")

    def made(self, value: T) -> T:
        """A value that was made: its size, and that of all together."""
        self.tick()
        if isinstance(value, str):
            self.fits(len(value))
            self._charge(sys.getsizeof(value))
        else:
            characters, items = self._measure(value)
            self._charge(characters + items * _ITEM_BYTES)
        return value

    def held(self, value: T) -> T:
        """A list or an object of values that exist; what stands in it twice counts twice, as when it is written."""
        self.tick()
        self._measure(value)
        self._charge(len(value) * _ITEM_BYTES)  # type: ignore[arg-type]  # it has a length
        return value

    def sought(self, text: Any) -> None:
        """A text to look for, or the characters to strip."""
        if isinstance(text, str) and len(text) > MOST_SOUGHT:
            raise SecurityError(
                f"what it strips or looks for has more than {MOST_SOUGHT} characters: use a shorter text"
            )

    def split(self, text: Any) -> None:
        """A text that will be taken apart, at worst into its characters."""
        if isinstance(text, str):
            self.fits(0, len(text))

    def cuts(self, most: int) -> int:
        """How often to cut a text, of which the parts are counted afterwards; negative is as often as possible."""
        return MOST_STEPS if most < 0 else min(most, MOST_STEPS)

    def number(self, value: Any) -> None:
        """A number that is computed with, or the text of one."""
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise SecurityError(f"it computes with whole numbers of more than {_MOST_BITS} bits: use smaller ones")
        if isinstance(value, str) and len(value) > _MOST_DIGITS:
            raise SecurityError(f"it reads a number from more than {_MOST_DIGITS} characters: use a shorter text")

    def power(self, base: Any, exponent: Any) -> None:
        """A power that will be computed."""
        if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * abs(exponent) > _MOST_BITS:
            raise SecurityError(f"it computes with whole numbers of more than {_MOST_BITS} bits: use smaller ones")

    def places(self, precision: Any) -> None:
        """The places of a number that will be rounded."""
        if isinstance(precision, int) and abs(precision) > _MOST_PLACES:
            raise SecurityError(f"it rounds to more than {_MOST_PLACES} places: use fewer")

    def _charge(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MOST_BYTES:
            raise _exceeded(f"its values take more than {MOST_BYTES >> 20} MiB together")

    def _measure(self, value: Any) -> tuple[int, int]:
        """The characters and the items of a value."""
        characters, items, left = 0, 0, [value]
        while left:
            one = left.pop()
            items += 1
            if isinstance(one, str):
                characters += len(one)
            elif isinstance(one, dict):
                left += [*one.keys(), *one.values()]
            elif isinstance(one, _LISTS):
                left += cast(Iterable[Any], one)
            else:
                characters += 1
            self.fits(characters, items)
        return characters, items
