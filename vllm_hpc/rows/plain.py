"""Checks and normalises a plain row: ``prompt`` or ``messages``, with its options."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.messages import checked_messages
from vllm_hpc.rows.row import INPUT_FIELDS, OUTPUT_FIELDS, Row, RowError

TASKS = ("generate", "embed")
# Fields in which null means not given. datasets.to_json and pandas write every column in every row. Not ``lora``, where
# null names the base model.
NULLABLE = INPUT_FIELDS - {"index", "batch"}


def plain_row(fields: Any, index: int) -> Row:
    """The normalised row from the fields of a line or a table's row. Raises RowError."""
    if not isinstance(fields, dict):
        raise RowError("a row must be a JSON object with 'prompt' or 'messages'")
    fields = given_fields(fields)
    if ("prompt" in fields) == ("messages" in fields):
        raise RowError(_without_prompt(fields))
    if not OUTPUT_FIELDS.isdisjoint(fields):
        raise RowError(f"field {min(OUTPUT_FIELDS & fields.keys())!r} is reserved for output rows: rename it")
    row: Row = {"index": index, "id": str(index), **fields}
    row["id"] = whole_id(row["id"])
    if "prompt" in fields:
        check_prompt(fields["prompt"])
    else:
        row["messages"] = checked_messages(fields["messages"])
    _check_options(fields)
    return row


def given_fields(fields: Row) -> Row:
    """The fields without those that are null and have a meaning; a null in a carried field is data."""
    if None not in fields.values():
        return fields
    return {name: value for name, value in fields.items() if value is not None or name not in NULLABLE}


def whole_id(given: Any) -> str | int:
    """An id: a string or a whole number. Raises RowError.

    1.0 is 1: pandas writes numbers so if another row has none. A float above 2**53 may have been rounded.
    """
    if isinstance(given, float) and given.is_integer() and abs(given) <= 2**53:
        return int(given)
    if type(given) not in (str, int):
        raise RowError("'id' must be a string or a whole number")
    identity: str | int = given
    return identity


def check_prompt(prompt: Any, name: str = "prompt") -> None:
    """Check for a string or a list of token ids. Raises RowError."""
    if isinstance(prompt, str):
        return
    if not isinstance(prompt, list) or not all(type(token) is int for token in prompt):
        raise RowError(f"{name!r} must be a string or a list of token ids")


def _check_options(fields: Row) -> None:
    if not isinstance(fields.get("sampling", {}), dict):
        raise RowError("'sampling' must be an object, such as {\"temperature\": 0}")
    if "chat_template_kwargs" in fields and not isinstance(fields["chat_template_kwargs"], dict):
        raise RowError("'chat_template_kwargs' must be an object, such as {\"enable_thinking\": false}")
    # These two tell the engine what to do with a row; a data column of that name must not.
    if "task" in fields and fields["task"] not in TASKS:
        raise RowError(f"field 'task' must be {' or '.join(TASKS)}: rename it if it means something else")
    if "batch" in fields:
        raise RowError("field 'batch' is reserved for OpenAI batch files: rename it")


def _without_prompt(fields: Row) -> str:
    if "prompt" in fields:
        return "a row needs either 'prompt' or 'messages', not both"
    if "body" in fields and "custom_id" in fields:
        return "this is an OpenAI batch request, but the first line is not: use one kind per file"
    return "a row needs either 'prompt' or 'messages'"
