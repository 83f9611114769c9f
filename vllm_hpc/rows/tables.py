"""Reads tables, .csv, .tsv and .parquet, with one prompt per row.

Columns are fields: ``prompt`` or ``messages``; optionally ``id``, ``sampling`` and others that have a meaning; the rest
is copied to the output. Objects and lists may be given as JSON text. A cell of a .csv stays a string: 007 does not
become 7.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

from vllm_hpc.rows import notes
from vllm_hpc.rows.cells import Cells, UnfitError
from vllm_hpc.rows.decode import decode_line
from vllm_hpc.rows.file_source import FileSource
from vllm_hpc.rows.header import Header, has_prompt, read_header
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.jsonl import BOM, MAX_LINE, numbered_lines
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.reading import AS_IT_IS, Reading
from vllm_hpc.rows.row import Row, RowError, first_line
from vllm_hpc.rows.row_maker import RowMaker
from vllm_hpc.rows.writers import SPARK, has_escape, note_absent, note_escapes
from vllm_hpc.spec.errors import InputError
from vllm_hpc.spec.words import counted

_BATCH = 256  # Parquet rows in memory at a time
TAB_SUFFIXES = (".tsv", ".tab")
# What columns may be separated by, the likeliest first.
_DELIMITERS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
# Lines that are looked at for the header; a name in quotes may have line breaks.
_HEADER_LINES = 20
# Excel's own first line, which says by what columns are separated.
_SEP = re.compile(r'"?sep=(?P<delimiter>[^\r\n])"?\r?\n?', re.IGNORECASE)
# A whole number as pandas writes it, also with a decimal comma, which a float holds exactly.
_WHOLE_ID = re.compile(r"(-?[1-9][0-9]{0,14}|0)[.,]0")


class CsvSource(FileSource):
    """A .csv or .tsv file with a header; ``notes`` is what is to be said of the rows that were read."""

    kind, is_blank = "csv", False

    def __init__(self, file: InputFile, reading: Reading = AS_IT_IS) -> None:
        self.file, self.reading = file, reading
        self.notes = Notes(self.place)
        self._line, self._has_escape = 1, False

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Each normalised row with the line on which it begins; indices from ``first``. Raises InputError, OSError."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
        self._line, self._has_escape = 1, False
        self.notes = Notes(self.place)
        advice = ""
        try:
            lines = self._lines()
            head = list(islice(lines, _HEADER_LINES))
            delimiter, skipped = find_delimiter(head, self.file.suffix, self.reading)
            advice = _advice(delimiter)
            reader = csv.reader(chain(head[skipped:], lines), strict=True, delimiter=delimiter)
            for index, (cells, maker) in enumerate(self._cells(reader, skipped, advice), first):
                yield self._line, self._row(maker, cells, index)
        except RowError as error:
            spark = SPARK if self._has_escape and advice in str(error) else ""
            raise InputError(f"{self.place(self._line)}: {error}{spark}") from None
        except csv.Error as error:
            advice = SPARK if self._has_escape else advice
            words = f"{error}{advice}" if "new-line" not in str(error) else _LONE_CR
            raise InputError(f"{self.place(self._line)}: {words}") from None

    def _cells(self, reader: Any, skipped: int, advice: str) -> Iterator[tuple[Row, RowMaker]]:
        """The cells of rows, by csv's reader, which does not count the lines that were skipped; and what makes rows."""
        names = next(filter(None, reader), None)
        self._line = max(1, reader.line_num + skipped)
        if names is None:
            return
        header = read_header(names, self.reading, self.notes)
        maker = RowMaker(self.kind, self.reading, self.notes, header.aliases)
        self._line = reader.line_num + 1 + skipped
        for cells in reader:
            # Spreadsheets write rows of empty cells below the last one.
            if any(cells) or len(cells) == 1:
                yield _by_name(header, cells, advice), maker
            self._line = reader.line_num + 1 + skipped

    def _row(self, maker: RowMaker, named: Row, index: int) -> Row:
        note_absent(
            named, (self.reading.id_column or "id", self.reading.prompt_column or "prompt"), self._line, self.notes
        )
        if self._has_escape:
            note_escapes(named, self._line, self.notes)
        cells = Cells(self.reading.prompt_column)
        fields = cells.fields(named, empty="")
        self._read_id(fields)
        make = maker.of_loose_fields if cells.is_loose else maker.of_fields
        return make(fields, index, self._line, is_renamed=True)

    def _read_id(self, fields: Row) -> None:
        """Read 4.0 as the id 4, which is a text as all of a .csv: pandas writes 4 so where a column has a gap."""
        name = self.reading.id_column or "id"
        given = fields.get(name)
        if isinstance(given, str) and (whole := _WHOLE_ID.fullmatch(given)):
            fields[name] = whole[1]
            self.notes.add(notes.WHOLE_IDS, self._line, [f"{given} as {whole[1]!r}"])

    def _lines(self) -> Iterator[str]:
        with self.file.open() as stream:
            for number, raw in numbered_lines(stream, self.file):
                try:
                    line = decode_line(raw.removeprefix(BOM) if number == 1 else raw)
                except RowError as error:
                    raise InputError(f"{self.place(number)}: {error}") from None
                self._has_escape = self._has_escape or has_escape(line)
                yield line


_LONE_CR = "lines end in CR only: convert them, for example with 'dos2unix -c mac'"


def find_delimiter(head: list[str], suffix: str, reading: Reading) -> tuple[str, int]:
    """What separates the columns of a file with these first lines, and how many lines to skip: Excel's ``sep=;``.

    It is the one by which the header has a column for the prompt; else the one that makes most columns.
    """
    if head and (said := _SEP.fullmatch(head[0])):
        return said["delimiter"], 1
    if suffix in TAB_SUFFIXES:
        return "\t", 0
    headers = {one: next(filter(None, csv.reader(head, delimiter=one)), []) for one in _DELIMITERS}
    return max(headers, key=lambda one: (has_prompt(headers[one], reading), len(headers[one]))), 0


def _advice(delimiter: str) -> str:
    name = _DELIMITERS.get(delimiter, repr(delimiter))
    return f": quote a cell that contains {name}, a quote or a newline, and double the quotes in it"


def _by_name(header: Header, cells: list[str], advice: str) -> Row:
    if len(cells) != len(header.fields):
        r_names = " (R: row.names = FALSE)" if len(cells) == len(header.fields) + 1 else ""
        raise RowError(f"{counted(len(cells), 'cell')}, but the header has {len(header.fields)}{advice}{r_names}")
    if None in header.fields:
        place = next((place for place, name in enumerate(header.fields) if name is None and cells[place].strip()), None)
        if place is not None:
            raise RowError(f"a value in column {place + 1}, which has no name: give it one in the header")
    return {name: cell for name, cell in zip(header.fields, cells, strict=True) if name is not None}


class ParquetSource:
    """A .parquet file; ``share`` is the part of its rows that was read, ``unpacked`` their bytes in memory."""

    kind, is_blank = "parquet", False

    def __init__(self, file: InputFile, reading: Reading = AS_IT_IS) -> None:
        self.file, self.reading, self.share, self.unpacked = file, reading, 0.0, 0
        self.notes = Notes(self.place)

    def place(self, number: int) -> str:
        """The position of row ``number`` (from 1), for errors."""
        return f"{self.file}: row {number}"

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Each normalised row with its number, from 1; indices from ``first``. Raises InputError, OSError."""
        arrow, parquet = self._pyarrow()
        self.unpacked = 0
        try:
            with parquet.ParquetFile(self.file.path) as table:
                header, maker = self._header(table)
                for number, cells in enumerate(self._cells(table), 1):
                    self.share = number / table.metadata.num_rows
                    named = dict(zip(header.fields, cells.items(), strict=True))
                    yield number, self._row(maker, named, number, first + number - 1)
        except (arrow.ArrowException, ValueError, OverflowError, KeyError) as error:
            raise InputError(f"{self.file}: not readable as Parquet: {first_line(error)}: write it again") from None

    def _pyarrow(self) -> tuple[Any, Any]:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise InputError(
                f"{self.file}: reading Parquet needs pyarrow, which is not installed: pip install 'vllm-hpc[tables]', "
                "or convert the file to .jsonl"
            ) from None
        return pyarrow, pyarrow.parquet

    def _header(self, table: Any) -> tuple[Header, RowMaker]:
        self.notes = Notes(self.place)
        try:
            header = read_header(
                table.schema_arrow.names, self.reading, self.notes, lambda: next(self._cells(table), None)
            )
        except RowError as error:
            raise InputError(f"{self.file}: {error}") from None
        return header, RowMaker(self.kind, self.reading, self.notes, header.aliases)

    def _cells(self, table: Any) -> Iterator[Row]:
        for batch in table.iter_batches(batch_size=_BATCH):
            self.unpacked += batch.nbytes
            yield from batch.to_pylist(maps_as_pydicts="strict")

    def _row(self, maker: RowMaker, named: dict[str | None, tuple[str, Any]], number: int, index: int) -> Row:
        cells = Cells(self.reading.prompt_column)
        try:
            fields = cells.fields(self._values(cells, maker, named, number))
            make = maker.of_loose_fields if cells.is_loose else maker.of_fields
            return make(fields, index, number, is_renamed=True)
        except RowError as error:
            raise InputError(f"{self.place(number)}: {error}") from None

    def _values(self, cells: Cells, maker: RowMaker, named: dict[str | None, tuple[str, Any]], number: int) -> Row:
        """The cells as JSON values, without those that JSON cannot express, which must not have a meaning."""
        values: Row = {}
        unfit: dict[str, str] = {}
        for field, (name, cell) in named.items():
            if field is None:
                continue
            try:
                values[field] = cells.value(cell, field)
            except UnfitError as error:
                values[field], unfit[field] = None, f"{name!r} ({error})"
        if not unfit:
            return values
        if meant := unfit.keys() & maker.meaning(values):
            raise RowError(f"column {unfit[min(meant)]} is of a type that JSON cannot express: convert it")
        self.notes.add(notes.LEFT_OUT, number, unfit.values())
        return {field: value for field, value in values.items() if field not in unfit}
