"""A row's structured_outputs: one constraint on its answer, checked as far as that needs no grammar compiler.

The same checks for vLLM's engine and a rehearsal's. vLLM's own errors are several lines each, and come later.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import msgspec

KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
_ADVICE = 'such as {"choice": ["yes", "no"]}'


class Constraint(msgspec.Struct, frozen=True):
    """The fields of vLLM's StructuredOutputsParams that a row may set (vllm/sampling_params.py)."""

    json: str | dict[str, Any] | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None


def checked_constraint(given: Any, newer: Collection[str] = ()) -> dict[str, Any]:
    """The fields that are given, without nulls. Raises TypeError or ValueError, which names the wrong one.

    ``newer``: fields of the vLLM that runs the row. One that is not known here is left to vLLM, with all beside it.
    """
    if not isinstance(given, dict):
        raise TypeError(f"structured_outputs must be an object, {_ADVICE}")
    named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if unknown := sorted(named.keys() - set(Constraint.__struct_fields__)):
        if set(unknown) <= set(newer):
            return named
        raise ValueError(f"vLLM's structured_outputs has no {unknown[0]!r}")
    if len(kinds := [kind for kind in KINDS if kind in named]) != 1:
        found = f"not {' and '.join(kinds)}: give one kind" if kinds else "none are specified"
        raise ValueError(f"structured_outputs must have one of {', '.join(KINDS)}; {found}")
    try:
        read = msgspec.convert(named, Constraint, strict=False)
    except msgspec.ValidationError as error:
        raise ValueError(f"structured_outputs: {error}") from None
    _check_content(kinds[0], getattr(read, kinds[0]))
    return {name: getattr(read, name) for name in named}


def _check_content(kind: str, value: Any) -> None:
    if kind == "json_object" and value is False:
        raise ValueError("structured_outputs: json_object must be true, or left out")
    is_empty = value == [] or (isinstance(value, str) and not value.strip())
    if kind in ("choice", "grammar", "json") and is_empty:
        raise ValueError(f"structured_outputs: {kind} is empty")
    if kind == "json" and isinstance(value, str):
        try:
            json.loads(value)
        except ValueError as error:
            raise ValueError(f"structured_outputs: json is not valid JSON: {error}") from None
