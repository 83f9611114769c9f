"""Decodes a line of JSON: with msgspec, and where that fails, as Python's json module reads what it writes.

Python writes NaN and Infinity, which JSON does not have, and the halves of a surrogate pair ("\\ud83d"), which are no
characters. Both are read, so that the error can name them, and so that data that is only copied stops no job.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any, NamedTuple

import msgspec

from vllm_hpc.rows.repeated_keys import check_keys, refuse_repeated
from vllm_hpc.rows.row import Row, RowError

_HALF = re.compile("[\ud800-\udfff]")
# A list or an object as str() writes it, also numpy's without commas.
_OF_STR = re.compile(rb"\s*[\[{][\[{\s]*'")
BY_STR = "it was written by Python's str(): write it with json.dumps, not str"
_MOST_DIGITS = 24
# Unicode's character in place of one that cannot be read.
_REPLACEMENT = "\ufffd"

_decode = msgspec.json.Decoder().decode


class LooseError(RowError):
    """Python reads a line that is not JSON. ``value`` may contain NaN, infinities and halves of surrogate pairs."""

    def __init__(self, value: Any, words: str) -> None:
        super().__init__(words)
        self.value = value


class Settled(NamedTuple):
    """A row's fields with null and U+FFFD for what JSON cannot express.

    ``not_finite`` and ``halves`` name the copied fields that had such values. ``unreadable`` says what is wrong with a
    field that has a meaning; None if the row can be run.
    """

    fields: Row
    not_finite: list[str]
    halves: list[str]
    unreadable: str | None


def parse(line: bytes) -> Any:
    """The value in a line of JSON. Raises RowError, also for a repeated key; LooseError if Python can read it."""
    try:
        value = _decode(line)
    except UnicodeDecodeError:
        raise RowError(not_utf8(line)) from None
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _refusal(line, error) from None
    check_keys(line, value)
    return value


def settle(fields: Row, meaning: Collection[str] | None) -> Settled:
    """Settle the fields of a loosely read row; those in ``meaning`` have one (None: all of them). Raises RowError."""
    settled: Row = {}
    found = Settled(settled, [], [], None)
    for name, value in fields.items():
        odd = _Odd()
        settled[odd.settle(name)] = odd.settle(value)
        shown = repr(odd.settle(name))
        if odd.not_finite and (meaning is None or name in meaning):
            raise RowError(f"{shown} contains {odd.not_finite}, which JSON does not have: write a number, or null")
        if odd.half and (meaning is None or name in meaning):
            found = found._replace(unreadable=f"{shown} contains {odd.words}")
        elif odd.half:
            found.halves.append(shown)
        if odd.not_finite:
            found.not_finite.append(shown)
    return found


def decode_line(raw: bytes) -> str:
    """A line as a string, with its newline. Raises RowError."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise RowError(not_utf8(raw)) from None


def not_utf8(raw: bytes) -> str:
    """What is wrong with bytes that are not UTF-8."""
    if raw.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        return "not UTF-8 but UTF-32: convert the file with iconv -f UTF-32 -t UTF-8"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        words = "not UTF-8 but UTF-16 (as Excel's 'Unicode Text'): convert the file with iconv -f UTF-16 -t UTF-8"
        return f"{words}, and name it .tsv, since tabs separate its columns" if _has_tab(raw) else words
    return "not UTF-8: convert the file, for example with iconv -f WINDOWS-1252 -t UTF-8"


def _has_tab(raw: bytes) -> bool:
    """Whether a line in UTF-16 has a tab, of two bytes like every other character in it."""
    return b"\t\0" in raw or b"\0\t" in raw


class _Odd:
    """What JSON cannot express in values: the last that was found of each kind."""

    def __init__(self) -> None:
        self.not_finite = self.half = ""

    @property
    def words(self) -> str:
        if self.not_finite:
            return f"{self.not_finite}, which JSON does not have"
        if not self.half:
            return ""
        half = f"half of a surrogate pair, \\u{ord(self.half):04x}, which is no character"
        if "\udc80" <= self.half <= "\udcff":
            return f"{half}: was it read with errors='surrogateescape', which keeps bytes that are not UTF-8?"
        return f"{half}: was the text cut inside one?"

    def settle(self, value: Any) -> Any:
        if isinstance(value, str):
            if half := _HALF.search(value):
                self.half = half[0]
                return _HALF.sub(_REPLACEMENT, value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                self.not_finite = "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
                return None
        elif isinstance(value, dict):
            return self._object(value)
        elif isinstance(value, list):
            return [self.settle(one) for one in value]
        return value

    def _object(self, value: Row) -> Row:
        settled = {self.settle(key): self.settle(one) for key, one in value.items()}
        if len(settled) < len(value):
            raise RowError("two keys of one object differ only in half of a surrogate pair: remove one")
        return settled


def _refusal(line: bytes, error: Exception) -> RowError:
    """The error for a line that msgspec does not read."""
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return RowError(not_utf8(line))
    odd = _Odd()
    try:
        value = json.loads(text, parse_float=_finite, object_pairs_hook=refuse_repeated)
        odd.settle(value)
    except (RecursionError, ValueError):
        odd = _Odd()
    if not odd.words and (number := _beyond_double(text)):
        return RowError(
            f"not valid JSON: the number {number} is beyond 1.8e308, and becomes infinite: write it in quotes, or null"
        )
    if not odd.words:
        return RowError(f"not valid JSON: {error}: {_advice(line.strip())}")
    return LooseError(value, f"it contains {odd.words}")


def _advice(line: bytes) -> str:
    if _OF_STR.match(line):
        return BY_STR
    if line.endswith(b"},"):
        return "remove the comma at the end of each line, or write one array"
    if not line.startswith((b"{", b"[")):
        return "write one complete object per line; a table or plain text is read from a file named .csv, .tsv or .txt"
    return f"write one complete object per line{'' if line.endswith((b'}', b']')) else ', as jq -c . does'}"


def _beyond_double(text: str) -> str | None:
    """The first number that no double can hold, shortened; None if there is none, or the text is not JSON."""
    found: list[str] = []

    def read(number: str) -> float:
        if not found and math.isinf(float(number)):
            found.append(number if len(number) <= _MOST_DIGITS else f"{number[:_MOST_DIGITS]}...")
        return 0.0

    try:
        json.loads(text, parse_float=read, parse_int=read)
    except (RecursionError, ValueError):
        return None
    return found[0] if found else None


def _finite(text: str) -> float:
    """A number as written; one that is too large for a float is not read as infinity."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value
