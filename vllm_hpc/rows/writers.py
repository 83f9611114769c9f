"""What tells who wrote a .csv: R's NA for a missing cell, and Spark's backslash before a quote in a cell."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vllm_hpc.rows import notes
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.row import Row

# How R, pandas, Python and databases write a missing cell: a reader cannot tell it from that text.
ABSENT = frozenset({"NA", "<NA>", "NaN", "nan", "NULL", "null", "None", "\\N"})
_ESCAPED = re.compile(r'\\"(?!")')
SPARK = ': if it is from Spark, which writes \\" for a quote in a cell, write it with .option("escape", "\\"")'
ABSENT_ID = ": it stands for a missing value: leave these cells empty"


def has_escape(line: str) -> bool:
    """Whether a line may be Spark's: it has a quote behind a backslash."""
    return '\\"' in line and _ESCAPED.search(line) is not None


def note_absent(cells: Row, names: Iterable[str], line: int, found: Notes) -> None:
    """Note the columns with a meaning whose cell is a word for a missing value."""
    if absent := [f"{name!r} is {cells[name]}" for name in names if cells.get(name) in ABSENT]:
        found.add(notes.ABSENT, line, absent)


def note_escapes(cells: Row, line: int, found: Notes) -> None:
    """Note a row that Spark would have meant otherwise: a cell ends where its text may go on, or goes on."""
    names = [repr(name) for name, cell in cells.items() if cell.endswith("\\") or '\\"\n' in cell or '\\"\r' in cell]
    if names:
        found.add(notes.ESCAPES, line, names)
