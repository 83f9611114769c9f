"""Reads values of a config.json, which may be damaged, hostile, or written by an older or newer transformers.

What the planner cannot read, vLLM perhaps can: such a value raises NotCheckedError, after which the model is planned
without being checked. ModelError is for numbers that no model can have.
"""

from __future__ import annotations

import math
import reprlib
from typing import Any

from vllm_hpc.spec.errors import ModelError

# Larger than any model's; keeps values from a damaged or hostile file out of the arithmetic.
MOST_LAYERS = 10_000
MOST_EXPERTS = 100_000
MOST_WIDTH = 10_000_000
MOST_TOKENS = 1_000_000_000


# The origin of values that the user gave in place of the file's.
OVERRIDES = "--engine hf_overrides"


class NotCheckedError(ModelError):
    """The planner cannot tell a model's memory, for the reason in the message: nothing is checked, nothing refused."""


def whole_number(value: Any) -> int | None:
    """The value as a whole number, None if it is none: 8192.0 is 8192, as some writers of JSON have only floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def shown(value: Any) -> str:
    """The value as in Python, on one line, cut after 40 characters."""
    text = reprlib.repr(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


class Fields:
    """The fields of one object in a config.json; null counts as missing."""

    def __init__(self, content: dict[str, Any], origin: str) -> None:
        self._content = {key: value for key, value in content.items() if value is not None}
        self.origin = origin

    @property
    def advice(self) -> str:
        """What to do about a number that no model can have."""
        if self.origin.startswith(OVERRIDES):
            return "correct it"
        return f"copy {'params.json' if '/params.json' in self.origin else 'config.json'} again"

    def architecture(self) -> str | None:
        """The class name in ``architectures``, None if there is none. Raises NotCheckedError."""
        names = self._content.get("architectures", [])
        if names == []:
            return None
        if not isinstance(names, list) or not isinstance(names[0], str) or not names[0].isidentifier():
            raise self._odd("architectures", "a list of names of classes")
        return str(names[0])

    def table(self, name: str) -> dict[str, Any] | None:
        """A nested object, None if there is none. Raises NotCheckedError."""
        value = self._content.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._odd(name, "an object")
        return value

    def tables(self) -> list[tuple[str, dict[str, Any]]]:
        """All nested objects, by name."""
        return [(str(name), value) for name, value in self._content.items() if isinstance(value, dict)]

    def inside(self, *names: str) -> Fields:
        """The fields of the first nested object of these names; if there is none, these. Raises NotCheckedError."""
        for name in names:
            if (table := self.table(name)) is not None:
                return Fields(table, f"{self.origin}: {name}")
        return self

    def over(self, defaults: dict[str, Any]) -> Fields:
        """These fields, with defaults for missing ones."""
        return Fields({**defaults, **self._content}, self.origin)

    def count(self, *names: str, most: int) -> int:
        """A whole number from 1 to ``most`` under the first of the names that exists.

        Raises NotCheckedError if none exists or it is not a number, ModelError for any other number.
        """
        value = self.given_count(*names, most=most)
        if value is None:
            raise NotCheckedError(f"{self.origin}: {names[0]!r} is missing")
        return value

    def given_count(self, *names: str, most: int) -> int | None:
        """The same, but None if none of the names exists."""
        name = self._first(names)
        if name is None:
            return None
        value = self._content[name]
        number = whole_number(value)
        if number is None and not (isinstance(value, float) and math.isfinite(value)):
            raise self._odd(name, "a whole number")
        if number is None or not 1 <= number <= most:
            raise ModelError(
                f"{self.origin}: {name!r} must be a whole number from 1 to {most}, not {shown(value)}: {self.advice}"
            )
        return number

    def optional_count(self, *names: str, most: int) -> int | None:
        """The same for a number that may be 0, which means none or off, as a missing one does.

        Raises NotCheckedError for all that is neither.
        """
        name = self._first(names)
        if name is None:
            return None
        number = whole_number(self._content[name])
        if number is None or not 0 <= number <= most:
            raise self._odd(name, f"a whole number up to {most}")
        return number or None

    def size(self, *names: str, most: int) -> int | None:
        """The same, or of a list with a number for each layer the largest one. Raises NotCheckedError."""
        name = self._first(names)
        if name is None or not self.is_list(name):
            return self.optional_count(*names, most=most)
        largest = max(self.numbers(name) or [0])
        if not 0 <= largest <= most:
            raise self._odd(name, f"a list of whole numbers up to {most}")
        return largest or None

    def ratio(self, name: str) -> float | None:
        """A number above 0 and up to 1000, None if there is none. Raises NotCheckedError."""
        value = self._content.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1000:
            raise self._odd(name, "a number above 0")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """True or false, or 1 or 0. Raises NotCheckedError."""
        value = self._content.get(name, default)
        if value not in (True, False):
            raise self._odd(name, "true or false")
        return bool(value)

    def says(self, *names: str) -> bool:
        """Whether the first of the names that exists is true; whatever is neither true nor false is not."""
        name = self._first(names)
        return name is not None and self._content[name] in (True,)

    def is_zero(self, *names: str) -> bool:
        """Whether the first of the names that exists is 0."""
        name = self._first(names)
        return name is not None and whole_number(self._content[name]) == 0

    def has(self, name: str) -> bool:
        """Whether there is a value of that name."""
        return name in self._content

    def is_list(self, name: str) -> bool:
        """Whether the value is a list."""
        return isinstance(self._content.get(name), list)

    def is_minus_one(self, name: str) -> bool:
        """Whether the value is -1, which means "all" or "none" in some files."""
        return whole_number(self._content.get(name)) == -1

    def word(self, *names: str) -> str:
        """A string under the first of the names that exists; empty if none does, or it is not a string."""
        value = self._content.get(self._first(names) or names[0])
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str] | None:
        """A list of strings, None if there is none. Raises NotCheckedError."""
        value = self._content.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise self._odd(name, "a list of strings")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers, None if there is none. Raises NotCheckedError."""
        value = self._content.get(name)
        if value is None:
            return None
        items = value if isinstance(value, list) else []
        numbers = [number for item in items if (number := whole_number(item)) is not None]
        if not isinstance(value, list) or len(numbers) < len(value):
            raise self._odd(name, "a list of whole numbers")
        return numbers

    def _first(self, names: tuple[str, ...]) -> str | None:
        """The first of the names that exists."""
        return next((name for name in names if name in self._content), None)

    def _odd(self, name: str, wanted: str) -> NotCheckedError:
        return NotCheckedError(f"{self.origin}: {name!r} is {shown(self._content.get(name))}, not {wanted}")


def read_dtype(fields: Fields) -> str:
    """The dtype of the weights, to be shown: vLLM runs a model in 16 bits whatever it is, if --engine names none."""
    name = fields.word("dtype", "torch_dtype").removeprefix("torch.")
    return name if name.isidentifier() and len(name) <= 40 else ""
