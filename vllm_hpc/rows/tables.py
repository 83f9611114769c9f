"""Reads tables, .csv and .parquet, with one prompt per row.

Columns: ``prompt`` or ``messages``; optionally ``id``, ``sampling`` and ``chat_template_kwargs``; every other column is
copied to the output. Objects and lists may be given as JSON text. A cell of a .csv stays a string: 007 does not
become 7.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from vllm_hpc.rows.cells import check_columns, json_value, table_row
from vllm_hpc.rows.input_file import InputFile
from vllm_hpc.rows.jsonl import BOM, MAX_LINE, decode_line, numbered_lines
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.spec.errors import InputError

_BATCH = 256  # Parquet rows in memory at a time


class CsvSource:
    """A .csv file with a header."""

    kind, is_blank = "csv", False

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._line = 1

    @property
    def share(self) -> float:
        """The share of the file that was read, from 0 to 1."""
        return self.file.share

    @property
    def unpacked(self) -> int:
        """Unpacked bytes that were read."""
        return self.file.unpacked

    def place(self, number: int) -> str:
        """The position of the row that begins on line ``number``, for errors."""
        return f"{self.file}:{number}"

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Each normalised row with the line on which it begins; indices from ``first``. Raises InputError, OSError."""
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
        self._line = 1
        try:
            yield from self._rows(first)
        except RowError as error:
            raise InputError(f"{self.place(self._line)}: {error}") from None
        except csv.Error as error:
            words = f"{error}{_CSV_ADVICE}" if "new-line" not in str(error) else _LONE_CR
            raise InputError(f"{self.place(self._line)}: {words}") from None

    def _rows(self, index: int) -> Iterator[tuple[int, Row]]:
        reader = csv.reader(self._lines(), strict=True)
        header = next(reader, None)
        if header is None:
            return
        check_columns(header, ": columns must be separated by commas")
        self._line = reader.line_num + 1
        for cells in reader:
            if cells:
                yield self._line, table_row(_by_name(header, cells), index, empty="")
                index += 1
            self._line = reader.line_num + 1

    def _lines(self) -> Iterator[str]:
        with self.file.open() as stream:
            for number, raw in numbered_lines(stream, self.file):
                yield decode_line(raw.removeprefix(BOM) if number == 1 else raw)


_LONE_CR = "lines end in CR only: convert them, for example with 'dos2unix -c mac'"
_CSV_ADVICE = ": quote a cell that contains a comma, a quote or a newline, and double the quotes in it"


def _by_name(header: list[str], cells: list[str]) -> Row:
    if len(cells) != len(header):
        raise RowError(f"{len(cells)} cell(s), but the header has {len(header)}{_CSV_ADVICE}")
    return dict(zip(header, cells, strict=True))


class ParquetSource:
    """A .parquet file; ``share`` is the part of its rows that was read, ``unpacked`` their bytes in memory."""

    kind, is_blank = "parquet", False

    def __init__(self, file: InputFile) -> None:
        self.file, self.share, self.unpacked = file, 0.0, 0

    def place(self, number: int) -> str:
        """The position of row ``number`` (from 1), for errors."""
        return f"{self.file}: row {number}"

    def rows(self, first: int = 0) -> Iterator[tuple[int, Row]]:
        """Each normalised row with its number, from 1; indices from ``first``. Raises InputError, OSError."""
        arrow, parquet = self._pyarrow()
        self.unpacked = 0
        try:
            with parquet.ParquetFile(self.file.path) as table:
                self._check_columns(table.schema_arrow.names)
                for number, cells in enumerate(self._cells(table), 1):
                    self.share = number / table.metadata.num_rows
                    yield number, self._row(cells, number, first + number - 1)
        except (arrow.ArrowException, ValueError, OverflowError, KeyError) as error:
            raise InputError(f"{self.file}: not readable as Parquet: {_first_line(error)}: write it again") from None

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

    def _check_columns(self, names: list[str]) -> None:
        try:
            check_columns(names, "")
        except RowError as error:
            raise InputError(f"{self.file}: {error}") from None

    def _cells(self, table: Any) -> Iterator[Row]:
        for batch in table.iter_batches(batch_size=_BATCH):
            self.unpacked += batch.nbytes
            yield from batch.to_pylist(maps_as_pydicts="strict")

    def _row(self, cells: Row, number: int, index: int) -> Row:
        try:
            return table_row({name: json_value(cell, name) for name, cell in cells.items()}, index)
        except RowError as error:
            raise InputError(f"{self.place(number)}: {error}") from None


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
