"""Checks and normalises a plain row: ``prompt`` or ``messages``, with its options."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.chat import check_chat, read_tools
from vllm_hpc.rows.messages import checked_messages
from vllm_hpc.rows.missing_prompt import of_another_kind
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.whole_numbers import whole_number, with_whole_numbers
from vllm_hpc.spec.sampling_names import first_of_others


def plain_row(fields: Row, index: int) -> Row:
    """The normalised row from fields that were read (``fields``). Raises RowError."""
    row: Row = {"index": index, "id": str(index), **fields}
    row["id"] = whole_id(row["id"])
    if "prompt" in fields:
        row["prompt"] = checked_prompt(fields["prompt"])
    else:
        row["messages"] = checked_messages(fields["messages"])
        if "tools" in row:
            row["tools"] = read_tools(row["tools"])
        check_chat(row)
    if "sampling" in fields:
        row["sampling"] = _sampling(fields["sampling"])
    return row


def whole_id(given: Any) -> str | int:
    """An id: a string or a whole number. Raises RowError.

    1.0 is 1: pandas writes numbers so if another row has none. A float above 2**53 may have been rounded.
    """
    given = whole_number(given)
    if type(given) not in (str, int):
        raise RowError(f"'id' must be a string or a whole number{_COLUMNS if isinstance(given, dict | list) else ''}")
    identity: str | int = given
    return identity


def checked_prompt(prompt: Any, name: str = "prompt", is_field: bool = True) -> str | list[int]:
    """A prompt: a string or a list of token ids, in which 5.0 is 5. Raises RowError, with advice for a field."""
    if isinstance(prompt, str):
        return prompt
    tokens: Any = prompt
    if isinstance(prompt, list) and not _are_whole(prompt):
        tokens = list(map(whole_number, prompt))
    if not isinstance(tokens, list) or not _are_whole(tokens):
        hint = of_another_kind(prompt, name) if is_field else ""
        raise RowError(f"{name!r} must be a string or a list of token ids{hint}")
    return tokens


def _are_whole(tokens: list[Any]) -> bool:
    return all(type(token) is int for token in tokens)


# Columns instead of rows, as pandas writes by default.
_COLUMNS = ": write rows, not columns (pandas: to_json(..., orient='records', lines=True))"


def _sampling(given: Any) -> Row:
    """The sampling, with numbers as vLLM takes them. Wrong values are found on the ranks, names of others here."""
    if not isinstance(given, dict):
        raise RowError("'sampling' must be an object, such as {\"temperature\": 0}")
    if said := first_of_others(given):
        raise RowError(f"'sampling': {said}")
    return with_whole_numbers(given)
