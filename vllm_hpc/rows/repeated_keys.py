"""Finds a key that an object has twice: it is unclear which value counts, and JSON parsers take the last one."""

from __future__ import annotations

import json
import re
from typing import Any

from vllm_hpc.rows.row import RowError

_KEY_END = re.compile(rb'"[ \t\r\n]*:')


def check_keys(text: bytes, value: Any) -> None:
    """Refuse a key that appears twice in one object, at any depth. ``value``: what was read. Raises RowError.

    A key that is lost leaves fewer keys in the value than in the text, where they are counted by their ends, ``":``.
    Texts may contain the same; only then, and for a lost key, the text is read again, with the names of all keys.
    """
    if not _has_keys(value, len(_KEY_END.findall(text))):
        _find(text)


def refuse_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these keys and values, as json's ``object_pairs_hook``. Raises RowError for a repeated key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError(f"{twice!r} appears twice in one object: remove one")
    return found


def _has_keys(value: Any, count: int) -> bool:
    """Whether the objects in a value have so many keys together; it cannot have more."""
    left = [value]
    while left:
        one = left.pop()
        if type(one) is dict:
            count -= len(one)
            if not count:  # what is left, perhaps thousands of token ids, has no objects
                return True
            left += one.values()
        elif type(one) is list:
            left += [item for item in one if type(item) is dict or type(item) is list]
    return not count


def _find(text: bytes) -> None:
    try:
        # The numbers do not matter, and Python reads none of over 4300 digits.
        json.loads(text, object_pairs_hook=refuse_repeated, parse_int=len, parse_float=len)
    except (RecursionError, ValueError) as error:
        raise RowError(f"not valid JSON: {error}") from None
