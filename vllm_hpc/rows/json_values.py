"""Reads JSON that is not one object a line: an array of objects, or objects written over several lines."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from vllm_hpc.rows.decode import BY_STR, not_utf8
from vllm_hpc.rows.file_source import FileSource
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.jsonl import BOM, MAX_LINE, kind_of_value, of_one_url, refuse_options
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.row_maker import RowMaker
from vllm_hpc.spec.errors import InputError

_CHUNK = 1 << 16
# Bytes of a line that are looked at, to see what the file is.
_LINE = 1 << 20
# Characters of the first value. A larger one is hardly a row, but an object around all of them, and is read whole.
_MOST_FIRST = 16 << 20
# Characters before the end of a text in which the error is, where a word, a number or an escape is cut there.
_CUT_WITHIN = 16
_OF_STR = ("{'", "'")
_SPACE = re.compile(r"[ \t\r\n]*")
# A list of objects in an object, such as {"version": 1, "data": [{...}, ...]}.
_ROWS = re.compile(r'"(?P<name>[A-Za-z_][A-Za-z0-9_]*)"\s*:\s*\[\s*\{')
_scan = json.JSONDecoder().raw_decode


class TooLongError(RowError):
    """A value that is longer than a row may be."""


def is_array_or_spread(file: InputFile) -> bool:
    """Whether a file is an array, or has its first object over several lines (as jq prints it).

    Raises InputError, OSError.
    """
    with file.open() as stream:
        line = stream.readline(_LINE).removeprefix(BOM)
        while line.isspace():
            line = stream.readline(_LINE)
    begin = line.strip()
    if begin.startswith(b"[") or begin == b"{":
        return True
    return begin.startswith(b"{") and line.endswith(b"\n") and is_cut(begin) and _has_value(file)


def is_cut(line: bytes) -> bool:
    """Whether a line is the beginning of a JSON value, and ends between two words or signs of it."""
    try:
        text = line.decode("utf-8")
        _scan(text)
    except json.JSONDecodeError as error:
        return error.pos == len(text)
    except (RecursionError, ValueError):
        pass
    return False


def _has_value(file: InputFile) -> bool:
    """Whether a file begins with a JSON value, on one line or on several."""
    with file.open() as stream:
        try:
            return next(iter(JsonValues(stream)), None) is not None
        except RowError:
            return False


class JsonSource(FileSource):
    """A .json file, or a .jsonl that is in fact one. Rows are read one at a time, whatever the file's size.

    ``is_blank``, ``url``, ``notes``: see jsonl.LineSource. A row's number is its item's: an array may be one line.
    """

    def __init__(self, file: InputFile, reading: Reading = AS_IT_IS) -> None:
        self.file, self.reading = file, reading
        first = self._first()
        self.is_blank = first == b""
        self._line_kind = kind_of_value(first or b"", reading)
        self.kind = "openai" if self._line_kind == "openai" else "json"
        refuse_options(file, self.kind, reading)
        self.notes = Notes(self.place)
        self.url: str | None = None
        self._line = 1

    def place(self, number: int) -> str:
        """The position of item ``number``, the one that was read last, for errors."""
        return f"{self.file}:{self._line}: item {number}"

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """The item's number and the normalised row; indices from ``first``. Raises InputError, OSError."""
        self.notes = Notes(self.place)
        with self.file.open() as stream:
            rows = self._rows(stream, first)
            yield from of_one_url(self, rows) if self.kind == "openai" else rows

    def _rows(self, stream: BinaryIO, first: int) -> Iterator[tuple[int, Row]]:
        values = JsonValues(stream)
        maker = RowMaker(self._line_kind, self.reading, self.notes)
        try:
            for index, text in enumerate(values, first):
                self._line = values.line
                row = maker.of_line(text, index, values.count)
                assert row is not None  # a value is never blank
                yield values.count, row
        except RowError as error:
            self._line = values.line
            raise InputError(f"{self.place(values.count)}: {error}") from None

    def _first(self) -> bytes | None:
        """The first value; empty if there is none, None if it is not JSON."""
        with self.file.open() as stream:
            try:
                return next(iter(JsonValues(stream)), b"")
            except TooLongError as error:  # reading it again would take as long again
                raise InputError(f"{self.file}: {error}") from None
            except RowError:  # raised again when it is read as a row
                return None


class JsonValues:
    """The values of an array, or values that follow each other, as text. Raises RowError.

    ``line``: where the last one began; ``count``: how many there were.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._place, self._is_whole = "", 0, False
        self._at = self.line = 1
        self.count = 0

    def __iter__(self) -> Iterator[bytes]:
        is_array = self._next() == "["
        self._place += is_array
        while (sign := self._next()) != ("]" if is_array else ""):
            if self.count and is_array:
                if sign != ",":
                    raise RowError("not valid JSON: ',' or ']' expected after it" if sign else _CUT)
                self._place += 1
                self._next()
            self.count, self.line = self.count + 1, self._at
            yield self._value()
        self._place += is_array
        if self._next():
            raise RowError("not valid JSON: something follows the array: remove it")

    def _next(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            end = _SPACE.match(self._text, self._place).end()  # type: ignore[union-attr]  # it matches nothing, too
            self._pass(end)
            if end < len(self._text) or self._is_whole:
                return self._text[end : end + 1]
            self._read()

    def _value(self) -> bytes:
        while True:
            try:
                _, end = _scan(self._text, self._place)
            except (RecursionError, ValueError) as error:
                if not self._is_unfinished(error):
                    raise RowError(self._explain(error)) from None
                self._check_length(len(self._text))
            else:
                self._check_length(end)
                if end < len(self._text) or self._is_whole:
                    text = self._text[self._place : end]
                    self._pass(end)
                    return text.encode("utf-8", "surrogatepass")
            self._read()

    def _is_unfinished(self, error: Exception) -> bool:
        """Whether the value may only be cut where the text ends that was read so far."""
        if self._is_whole or not isinstance(error, json.JSONDecodeError):
            return False
        return error.msg.startswith("Unterminated string") or error.pos > len(self._text) - _CUT_WITHIN

    def _check_length(self, end: int) -> None:
        is_first = self.count == 1
        most = _MOST_FIRST if is_first else MAX_LINE
        if end - self._place <= most:
            return
        words = f"{'the first row' if is_first else 'a row'} has more than {most >> 20} Mi characters"
        found = _ROWS.search(self._text, self._place, self._place + _CHUNK) if is_first else None
        if found is None:
            raise TooLongError(f"{words}: write one row per line, as jq -c . does")
        name = found["name"]
        raise TooLongError(f"{words}: if the rows are in {name!r}, take them out, as jq -c '.{name}[]' does")

    def _explain(self, error: Exception) -> str:
        if not self._text[self._place :]:
            return _CUT
        words = (
            error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply, or a number of 4300 digits"
        )
        if self._text.startswith(_OF_STR, self._place):
            return f"not valid JSON: {words}: {BY_STR}"
        return f"not valid JSON: {words}: write an array of objects, or one complete object per line"

    def _pass(self, end: int) -> None:
        self._at += self._text.count("\n", self._place, end)
        self._place = end

    def _read(self) -> None:
        """Read on, at least as much as is waiting: a long value is scanned again a few times only."""
        data = self._stream.read(max(_CHUNK, len(self._text) - self._place))
        self._is_whole = not data
        try:
            self._text = self._text[self._place :] + self._decoder.decode(data, final=self._is_whole)
        except UnicodeDecodeError:
            raise RowError(not_utf8(data)) from None
        self._place = 0


_CUT = "not valid JSON: the file ends within the array: is it complete?"
