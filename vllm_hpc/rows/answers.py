"""The assistant's turn at the end of a chat: in files for fine-tuning it is the answer to learn, not a prompt."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.row import Row, RowError

# The field in which an answer that was dropped is copied to the output.
REFERENCE = "reference"


def ends_with_answer(row: Row) -> bool:
    """Whether a normalised row ends with the assistant's turn, and does not ask to continue it."""
    messages = row.get("messages")
    if not messages or messages[-1]["role"] != "assistant" or row.get("task") == "embed":
        return False
    return not row.get("chat_template_kwargs", {}).get("continue_final_message")


def without_answer(row: Row) -> Row:
    """The row without the assistant's turns at its end, which become its REFERENCE. Raises RowError if none is left.

    The reference is the text of a single turn; otherwise, or if the turn has calls or parts, the list of the turns.
    """
    messages: list[Row] = row["messages"]
    rest = len(messages)
    while rest and messages[rest - 1]["role"] == "assistant":
        rest -= 1
    if not rest:
        raise RowError("there are only turns of the assistant, and --drop-last-answer leaves none: remove the row")
    return {**row, "messages": messages[:rest], REFERENCE: _reference(messages[rest:])}


def _reference(turns: list[Row]) -> Any:
    (first, *more) = turns
    is_text = not more and isinstance(first.get("content"), str) and not first.get("tool_calls")
    return first["content"] if is_text else turns
