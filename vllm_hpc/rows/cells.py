"""Converts a table's row to fields: what an empty cell means, and how a cell becomes a JSON value."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from typing import Any

from vllm_hpc.rows.chat import CHOICES
from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.decode import LooseError, parse
from vllm_hpc.rows.messages import without_nulls
from vllm_hpc.rows.row import CHAT_FIELDS, NULLABLE, Row, RowError

# Columns whose empty cells count as not given, and those that may contain JSON text; of chats there are more.
_OWN = (NULLABLE - CHAT_FIELDS) | {CONVERSATIONS, "lora"}
_JSON = frozenset({"messages", "sampling", CONVERSATIONS})
_CHAT_JSON = frozenset({"tools", "tool_choice", "chat_template_kwargs"})
_FLAGS = {"true": True, "false": False}


class Cells:
    """Converts the cells of one row; ``column`` is the one with the prompt, if it has a name of its own.

    ``is_loose``: some value is one that JSON cannot express.
    """

    def __init__(self, column: str | None = None) -> None:
        self._own = _OWN | {column}
        self.is_loose = False

    def fields(self, cells: Row, empty: Any = None) -> Row:
        """The fields of a row; ``empty`` is the content of a cell without a value. Raises RowError."""
        is_chat = any(cells.get(name) not in (empty, None) for name in ("messages", CONVERSATIONS))
        own, texts = (self._own | CHAT_FIELDS, _JSON | _CHAT_JSON) if is_chat else (self._own, _JSON)
        fields = {name: cell for name, cell in cells.items() if name not in own or cell is None or cell != empty}
        for name in fields.keys() & texts:
            fields[name] = self._own_value(name, fields[name])
        if is_chat and isinstance(flag := fields.get("parallel_tool_calls"), str):
            fields["parallel_tool_calls"] = _FLAGS.get(flag.lower(), flag)
        return fields

    def _own_value(self, name: str, cell: Any) -> Any:
        """The value of a column that may contain JSON text; a choice of tools may be a word."""
        if name == "tool_choice" and cell in CHOICES:
            return cell
        return self._parse(name, cell) if isinstance(cell, str) else without_nulls(cell)

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
