"""Converts a table's row to fields: what an empty cell means, and how a cell becomes a JSON value."""

from __future__ import annotations

import datetime
import decimal
import math
import uuid
from functools import cache
from typing import Any

from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.json_text import CHAT_TEXTS, TEXTS, JsonTexts, has_chat, has_text
from vllm_hpc.rows.messages import without_nulls
from vllm_hpc.rows.row import CHAT_FIELDS, NULLABLE, Row

# Columns whose empty cells count as not given; of chats there are more.
_OWN = (NULLABLE - CHAT_FIELDS) | {CONVERSATIONS, "lora"}
# Of these a decimal is a number, as vLLM and templates need it; a decimal that is only copied keeps its digits.
_NUMBERS = TEXTS | CHAT_TEXTS | {"id", "prompt"}


_Names = frozenset[str]


@cache
def _names(column: str | None, is_chat: bool, has_prompt: bool) -> tuple[_Names, _Names, _Names]:
    """The columns with a meaning of their own, those that may be JSON text, and those that make a prompt."""
    own, texts = (_OWN | CHAT_FIELDS, TEXTS | CHAT_TEXTS) if is_chat else (_OWN, TEXTS)
    prompts = frozenset({"prompt", "messages", column or "prompt"})
    return own | {column or "prompt"}, texts, prompts if has_prompt else prompts | {CONVERSATIONS}


class UnfitError(Exception):
    """A value that JSON cannot express, such as bytes; ``str`` is the name of its type."""


class Cells:
    """Converts the cells of one row; ``column`` is the one with the prompt, if it has a name of its own."""

    def __init__(self, column: str | None = None) -> None:
        self._column = column
        self._texts = JsonTexts(is_table=True)
        self._has_infinity = False

    @property
    def is_loose(self) -> bool:
        """Whether some value is one that JSON cannot express, but Python's json module writes."""
        return self._has_infinity or self._texts.is_loose

    def fields(self, cells: Row, empty: Any = None) -> Row:
        """The fields of a row; ``empty`` is the content of a cell without a value. Raises RowError."""
        is_chat = has_chat(cells, empty)
        own, texts, prompts = _names(self._column, is_chat, "prompt" in cells or "messages" in cells)
        # A prompt that is empty stays, as null: the error says so.
        fields = {
            name: None if name in prompts and cell == empty else cell
            for name, cell in cells.items()
            if name not in own or name in prompts or cell is None or cell != empty
        }
        for name in texts & fields.keys():
            fields[name] = without_nulls(fields[name])
        return self._texts.read(fields) if has_text(fields) else fields

    def value(self, value: Any, field: str) -> Any:
        """A cell as a JSON value: dates as ISO strings, NaN as null, decimals as the field needs them.

        Raises UnfitError.
        """
        if value is None or type(value) in (str, int, bool):
            return value
        if isinstance(value, float):
            return self._number(value)
        if isinstance(value, list):
            return [self.value(one, field) for one in value]
        if isinstance(value, dict):
            return {str(key): self.value(one, field) for key, one in value.items()}
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, decimal.Decimal) and field in _NUMBERS:
            return int(value) if value == value.to_integral_value() else self._number(float(value))
        if isinstance(value, decimal.Decimal | uuid.UUID):
            return str(value)
        raise UnfitError(type(value).__name__)

    def _number(self, value: float) -> float | None:
        self._has_infinity = self._has_infinity or math.isinf(value)
        return None if math.isnan(value) else value
