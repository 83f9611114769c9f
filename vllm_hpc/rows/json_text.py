"""Fields that may be JSON text where an object or a list is meant, as in every .csv, and as pandas writes it again."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from vllm_hpc.rows.chat import CHOICES
from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.decode import LooseError, parse
from vllm_hpc.rows.row import Row, RowError

# Of any row, and of a chat.
TEXTS = frozenset({"messages", "sampling", CONVERSATIONS})
CHAT_TEXTS = frozenset({"tools", "tool_choice", "chat_template_kwargs"})
_ALL = TEXTS | CHAT_TEXTS | {"parallel_tool_calls"}
_FLAGS = {"true": True, "false": False}


class JsonTexts:
    """Reads such fields. ``is_table``: they are columns of one, where all is text.

    ``is_loose``: some value is one that JSON cannot express, but Python's json module writes.
    """

    def __init__(self, is_table: bool = False) -> None:
        self._is_table = is_table
        self.is_loose = False

    def read(self, fields: Row, without: Collection[str] = ()) -> Row:
        """The fields with what their texts say; those in ``without`` stay as they are. Raises RowError."""
        is_chat = has_chat(fields)
        names = (TEXTS | CHAT_TEXTS if is_chat else TEXTS) - set(without)
        texts = {name: fields[name] for name in names & fields.keys() if self._is_json(fields[name])}
        read = {name: self._value(name, text) for name, text in texts.items()}
        if is_chat and isinstance(flag := fields.get("parallel_tool_calls"), str):
            read["parallel_tool_calls"] = _FLAGS.get(flag.lower(), flag)
        return fields | read if read else fields

    def _is_json(self, value: Any) -> bool:
        """Whether a value is to be read; beside other JSON, a word is not: it is refused as what it is."""
        return isinstance(value, str) and (self._is_table or value.lstrip().startswith(("[", "{")))

    def _value(self, name: str, text: str) -> Any:
        if name == "tool_choice" and text in CHOICES:
            return text
        try:
            return parse(text.encode("utf-8", "surrogatepass"))
        except LooseError as error:
            self.is_loose = True
            return error.value
        except RowError as error:
            raise RowError(f"{'column ' if self._is_table else ''}{name!r}: {error}") from None


def has_text(fields: Row) -> bool:
    """Whether there is anything to read: most rows have none, and there may be many millions."""
    if _ALL.isdisjoint(fields):
        return False
    return any(isinstance(fields[name], str) for name in _ALL & fields.keys())


def has_chat(fields: Row, empty: Any = None) -> bool:
    """Whether a row is a chat; ``empty`` is the content of a field without a value."""
    return any(fields.get(name) not in (empty, None) for name in ("messages", CONVERSATIONS))
