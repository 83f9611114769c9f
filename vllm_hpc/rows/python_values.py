"""Values of Python, numpy, pandas, polars and Arrow as JSON, by what they can do: none of these is imported."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import math
import os
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from vllm_hpc.rows.row import RowError

_PLAIN = frozenset({str, int, bool, type(None)})
# The types of values that are not there: pandas' two.
_MISSING = ("NAType", "NaTType")


class UnfitValueError(Exception):
    """A value that JSON cannot express; ``str`` says what it is, and what to do."""


def line_of(fields: dict[str, Any], is_loose: bool = False) -> bytes:
    """A row as a line of JSON, of values that ``Values`` made. ``is_loose``: it has infinities, which are kept.

    What JSON does not have, and Python writes, is told by whoever reads the line. Raises RowError.
    """
    try:
        if not is_loose:
            return _encode(fields) + b"\n"
    except (UnicodeEncodeError, OverflowError, ValueError):  # half of a surrogate pair; a number of more than 64 bits
        pass
    try:
        return json.dumps(fields).encode("ascii") + b"\n"
    except ValueError:
        raise RowError("it has a whole number of more than 4300 digits: write it as a text") from None


class Values:
    """Converts the values of one row. ``has_infinity``: one of them is infinite, and is kept so."""

    def __init__(self) -> None:
        self.has_infinity = False

    def json_value(self, value: Any) -> Any:
        """A value as JSON has it: what is missing (NaN, NaT, NA) as null, times in ISO 8601, decimals as texts.

        Raises UnfitValueError for bytes, and for objects that are no data; RecursionError.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is float:
            return self._number(value)
        if kind is list or kind is tuple:
            return self._list(value)
        return self._object(value) if kind is dict else self._other(value)

    def _number(self, value: float) -> float | None:
        if math.isnan(value):
            return None
        self.has_infinity = self.has_infinity or math.isinf(value)
        return value

    def _list(self, values: Any) -> list[Any]:
        if set(map(type, values)) <= _PLAIN:  # such as token ids
            return list(values)
        return [self.json_value(one) for one in values]

    def _object(self, value: Mapping[Any, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, one in value.items():
            name = name_of(key)
            if name in found:
                raise UnfitValueError(f"an object with two keys {name!r}: give each its own")
            found[name] = self.json_value(one)
        return found

    def _other(self, value: Any) -> Any:
        """A value of another type than JSON's own."""
        if type(value).__name__ in _MISSING:
            return None
        if isinstance(value, enum.Enum):
            return self.json_value(value.value)
        if isinstance(value, str | int | float):
            return self.json_value(_as_plain(value))
        if isinstance(value, Mapping):
            return self._object(value)
        if isinstance(value, list | tuple):
            return self._list(value)
        if isinstance(value, decimal.Decimal) and value.is_nan():
            return None
        return text if (text := _as_text(value)) is not None else self._of_library(value)

    def _of_library(self, value: Any) -> Any:
        """A scalar or an array as numpy's, an Arrow scalar, a Series, a model of pydantic, a dataclass."""
        if isinstance(value, bytes | bytearray | memoryview):
            raise UnfitValueError(
                "bytes, which JSON does not have: decode them, or leave the column out with keep=[...]"
            )
        kind, is_one = getattr(getattr(value, "dtype", None), "kind", ""), not getattr(value, "ndim", 1)
        if is_one and kind in ("m", "M"):  # numpy's times, of which tolist() makes numbers
            return None if str(value) == "NaT" else str(value)
        if not isinstance(value, type):
            if dataclasses.is_dataclass(value):
                return {field.name: self.json_value(getattr(value, field.name)) for field in dataclasses.fields(value)}
            for method in ("tolist", "as_py", "to_list", "model_dump"):
                if callable(convert := getattr(value, method, None)):
                    return self.json_value(convert())
        raise UnfitValueError(f"{a_type(value)}, which JSON does not have: convert it, or leave it out with keep=[...]")


def name_of(key: Any) -> str:
    """The name of a column, or the key of an object. Raises UnfitValueError."""
    key = key.item() if hasattr(key, "item") and not isinstance(key, type) else key  # numpy's
    if isinstance(key, str):
        return str.__str__(key)
    if isinstance(key, int | float) and key == key:
        return str(key)
    raise UnfitValueError(f"{a_type(key)} as a name, {key!r:.60}: names must be texts")


def a_type(value: Any) -> str:
    """The type of a value in words: "a list", "a pandas Interval"."""
    kind = type(value)
    home = kind.__module__.partition(".")[0]
    name = kind.__name__ if home in ("builtins", "__main__") else f"{home} {kind.__name__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _as_plain(value: str | int | float) -> str | int | float:
    if isinstance(value, str):
        return str.__str__(value)
    return int(value) if isinstance(value, int) else float(value)


def _as_text(value: Any) -> str | None:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        plain = datetime.timedelta(value.days, value.seconds, value.microseconds)
        return str(msgspec.to_builtins(plain))
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    return os.fsdecode(value) if isinstance(value, os.PathLike) else None


_encode = msgspec.json.Encoder().encode
