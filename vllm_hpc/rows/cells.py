"""Converts a table's row to fields: what an empty cell means, and how a cell becomes a JSON value."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from typing import Any

from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.decode import LooseError, parse
from vllm_hpc.rows.messages import without_nulls
from vllm_hpc.rows.row import NULLABLE, Row, RowError

# Columns whose empty cells count as not given, and those that may contain JSON text.
_OWN = NULLABLE | {CONVERSATIONS, "lora"}
_JSON = ("messages", "sampling", "chat_template_kwargs", "tools", CONVERSATIONS)


class Cells:
    """Converts the cells of one row; ``column`` is the one with the prompt, if it has a name of its own.

    ``is_loose``: some value is one that JSON cannot express.
    """

    def __init__(self, column: str | None = None) -> None:
        self._own = _OWN | {column}
        self.is_loose = False

    def fields(self, cells: Row, empty: Any = None) -> Row:
        """The fields of a row; ``empty`` is the content of a cell without a value. Raises RowError."""
        fields = {name: cell for name, cell in cells.items() if name not in self._own or cell is None or cell != empty}
        for name in _JSON:
            if isinstance(fields.get(name), str):
                fields[name] = self._parse(name, fields[name])
            elif name in fields:
                fields[name] = without_nulls(fields[name])
        return fields

    def _parse(self, name: str, text: str) -> Any:
        try:
            return parse(text.encode("utf-8", "surrogatepass"))
        except LooseError as error:
            self.is_loose = True
            return error.value
        except RowError as error:
            raise RowError(f"column {name!r}: {error}") from None

    def value(self, value: Any, column: str) -> Any:
        """A cell as a JSON value: dates as ISO strings, decimals as strings, NaN as null. Raises RowError."""
        if value is None or type(value) in (str, int, bool):
            return value
        if isinstance(value, float):
            return self._number(value)
        if isinstance(value, list):
            return [self.value(one, column) for one in value]
        if isinstance(value, dict):
            return {str(key): self.value(one, column) for key, one in value.items()}
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, decimal.Decimal | uuid.UUID):
            return str(value)
        raise RowError(f"column {column!r} contains {type(value).__name__}, which JSON cannot express: leave it out")

    def _number(self, value: float) -> float | None:
        self.is_loose = self.is_loose or math.isinf(value)
        return None if math.isnan(value) else value
