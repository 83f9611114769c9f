"""Checks and normalises a plain row: ``prompt`` or ``messages``, with its options."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.chat import check_chat, read_tools
from vllm_hpc.rows.messages import checked_messages
from vllm_hpc.rows.missing_prompt import of_another_kind
from vllm_hpc.rows.row import Row, RowError


def plain_row(fields: Row, index: int) -> Row:
    """The normalised row from fields that were read (``fields``). Raises RowError."""
    row: Row = {"index": index, "id": str(index), **fields}
    row["id"] = whole_id(row["id"])
    if "prompt" in fields:
        check_prompt(fields["prompt"])
    else:
        row["messages"] = checked_messages(fields["messages"])
        if "tools" in row:
            row["tools"] = read_tools(row["tools"])
        check_chat(row)
    _check_options(fields)
    return row


def whole_id(given: Any) -> str | int:
    """An id: a string or a whole number. Raises RowError.

    1.0 is 1: pandas writes numbers so if another row has none. A float above 2**53 may have been rounded.
    """
    if isinstance(given, float) and given.is_integer() and abs(given) <= 2**53:
        return int(given)
    if type(given) not in (str, int):
        raise RowError(f"'id' must be a string or a whole number{_COLUMNS if isinstance(given, dict | list) else ''}")
    identity: str | int = given
    return identity


def check_prompt(prompt: Any, name: str = "prompt", is_field: bool = True) -> None:
    """Check for a string or a list of token ids. Raises RowError; of a row's field, it says what else it may be."""
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise RowError(
            f"{name!r} must be a string or a list of token ids{of_another_kind(prompt, name) if is_field else ''}"
        )


# Columns instead of rows, as pandas writes by default.
_COLUMNS = ": write rows, not columns (pandas: to_json(..., orient='records', lines=True))"


def _check_options(fields: Row) -> None:
    if not isinstance(fields.get("sampling", {}), dict):
        raise RowError("'sampling' must be an object, such as {\"temperature\": 0}")
