"""Converts a table's row to an input row: the meaning of columns, and how a cell becomes a JSON value."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from typing import Any

from vllm_hpc.rows.jsonl import parse
from vllm_hpc.rows.messages import without_nulls
from vllm_hpc.rows.plain import plain_row
from vllm_hpc.rows.row import Row, RowError

# Columns whose empty cells count as not given, and those of them that may contain JSON text.
_OWN = ("id", "prompt", "messages", "sampling", "chat_template_kwargs", "task")
_JSON = ("messages", "sampling", "chat_template_kwargs")


def check_columns(names: list[str], advice: str) -> None:
    """Refuse a header without a prompt, or with an empty or repeated name. Raises RowError."""
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise RowError(f"column {twice!r} appears twice: rename one")
    if not {"prompt", "messages"} & set(names):
        raise RowError(f"no column 'prompt' or 'messages', only {_some(names)}{advice}")
    if "" in names:
        raise RowError(f"column {names.index('') + 1} has no name: give it one (pandas: to_csv(..., index=False))")


def table_row(cells: Row, index: int, empty: Any = None) -> Row:
    """The normalised row for a table's row; ``empty`` is the content of a cell without a value. Raises RowError."""
    fields = {name: cell for name, cell in cells.items() if name not in _OWN or cell not in (empty, None)}
    for name in _JSON:
        if isinstance(fields.get(name), str):
            fields[name] = _parse(name, fields[name])
        elif name in fields:
            fields[name] = without_nulls(fields[name])
    return plain_row(fields, index)


def _parse(name: str, text: str) -> Any:
    try:
        return parse(text.encode("utf-8", "surrogatepass"))
    except RowError as error:
        raise RowError(f"column {name!r}: {error}") from None


def json_value(value: Any, column: str) -> Any:
    """A cell as a JSON value: dates as ISO strings, decimals as strings, NaN as null. Raises RowError."""
    if value is None or type(value) in (str, int, bool):
        return value
    if isinstance(value, float):
        return _number(value, column)
    if isinstance(value, list):
        return [json_value(one, column) for one in value]
    if isinstance(value, dict):
        return {str(key): json_value(one, column) for key, one in value.items()}
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    raise RowError(f"column {column!r} contains {type(value).__name__}, which JSON cannot express: leave it out")


def _number(value: float, column: str) -> float | None:
    if math.isinf(value):
        raise RowError(
            f"column {column!r} contains infinity, which JSON cannot express: leave it out, or write a string"
        )
    return None if math.isnan(value) else value


def _some(names: list[str], most: int = 8) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return f"{shown} ..." if len(names) > most else shown or "nothing"
