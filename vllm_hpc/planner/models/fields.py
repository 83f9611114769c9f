"""Reads a config.json that may be damaged or hostile: every value is checked, every error names file and key."""

from __future__ import annotations

from typing import Any

from vllm_hpc.spec.errors import ModelError


class Fields:
    """The fields of one object in a config.json; null counts as missing. Raises ModelError for invalid values."""

    def __init__(self, content: dict[str, Any], origin: str) -> None:
        self._content = {key: value for key, value in content.items() if value is not None}
        self.origin = origin

    def architecture(self) -> str:
        """The first of ``architectures``, a class name."""
        names = self._content.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str) or not names[0].isidentifier():
            raise ModelError(f"{self.origin}: 'architectures' must name the model's class: copy config.json again")
        return str(names[0])

    def table(self, name: str) -> dict[str, Any] | None:
        """A nested object, None if there is none."""
        value = self._content.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return value

    def inside(self, name: str) -> Fields:
        """The fields of a nested object; if there is none, these."""
        table = self.table(name)
        return self if table is None else Fields(table, f"{self.origin}: {name}")

    def over(self, defaults: dict[str, Any]) -> Fields:
        """These fields, with defaults for missing ones."""
        return Fields({**defaults, **self._content}, self.origin)

    def optional_count(self, *names: str, most: int) -> int | None:
        """A whole number from 1 to ``most`` under the first of the names that exists, None if none does."""
        for name in names:
            if name in self._content:
                value = self._content[name]
                if type(value) is not int or not 1 <= value <= most:
                    raise self._wrong(name, value, f"a whole number from 1 to {most}")
                return value
        return None

    def count(self, *names: str, most: int) -> int:
        """The same for a required number."""
        value = self.optional_count(*names, most=most)
        if value is None:
            raise ModelError(f"{self.origin}: {names[0]!r} is missing: copy config.json again")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """True or false."""
        value = self._content.get(name, default)
        if not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return value

    def is_minus_one(self, name: str) -> bool:
        """Whether the value is -1, which means "all" or "none" in some files."""
        return type(self._content.get(name)) is int and self._content[name] == -1

    def text(self, *names: str, default: str) -> str:
        """A string under the first of the names that exists."""
        value = next((self._content[name] for name in names if name in self._content), default)
        if not isinstance(value, str):
            raise self._wrong(names[0], value, "a string")
        return value

    def texts(self, name: str) -> list[str] | None:
        """A list of strings, None if there is none."""
        value = self._content.get(name)
        if value is not None and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise self._wrong(name, value, "a list of strings")
        return value

    def numbers(self, name: str) -> list[int] | None:
        """A list of whole numbers, None if there is none."""
        value = self._content.get(name)
        if value is not None and not (isinstance(value, list) and all(type(item) is int for item in value)):
            raise self._wrong(name, value, "a list of whole numbers")
        return value

    def _wrong(self, name: str, value: Any, wanted: str) -> ModelError:
        shown = repr(value) if len(repr(value)) <= 40 else repr(value)[:40] + "…"
        return ModelError(f"{self.origin}: {name!r} must be {wanted}, not {shown}: copy config.json again")
