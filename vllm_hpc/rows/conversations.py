"""ShareGPT's chats: the turns of ``conversations`` as messages."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.row import Row, RowError

CONVERSATIONS = "conversations"

# Who speaks, as the makers of such files call it (ShareGPT, FastChat, LLaMA-Factory, axolotl), and as vLLM does.
_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "gpt4", "gpt-4", "bing", "bard", "claude", "bot", "ai"), "assistant"),
    **dict.fromkeys(("model", "assistant"), "assistant"),
    "system": "system",
    **dict.fromkeys(("tool", "observation", "function_response"), "tool"),
}


class TurnsError(RowError):
    """What is wrong with the turns of a row, which cannot be run, while the others are."""


def messages_of(turns: Any) -> list[Row]:
    """The turns as messages. Raises TurnsError, which names the turn; RowError if they are no turns at all."""
    turns = rows_of_columns(turns)
    if turns in (None, [], {}):
        raise TurnsError(f"{CONVERSATIONS!r} is empty: it must be a list of turns")
    if not isinstance(turns, list):
        raise RowError(f'{CONVERSATIONS!r} must be a list of turns, such as {{"from": "human", "value": "Hi"}}')
    return [_message(turn, number) for number, turn in enumerate(turns, 1)]


def rows_of_columns(value: Any) -> Any:
    """A list of objects from an object of lists, as datasets writes a Sequence of structs; any other value as it is."""
    if not isinstance(value, dict) or not value or not all(isinstance(column, list) for column in value.values()):
        return value
    if len({len(column) for column in value.values()}) > 1:
        return value
    return [dict(zip(value, cells, strict=True)) for cells in zip(*value.values(), strict=True)]


def is_turns(value: Any) -> bool:
    """Whether a field looks like a chat, in OpenAI's or in ShareGPT's form."""
    if not isinstance(value, list) or not value or not all(isinstance(turn, dict) for turn in value):
        return False
    return all({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys() for turn in value)


def _message(turn: Any, number: int) -> Row:
    if isinstance(turn, dict) and isinstance(turn.get("role"), str):
        return turn | {"role": _ROLES.get(turn["role"], turn["role"])}
    if not isinstance(turn, dict) or not isinstance(turn.get("from"), str) or not isinstance(turn.get("value"), str):
        raise TurnsError(
            f"turn {number} of {CONVERSATIONS!r} must have 'from' and 'value' (text), or 'role' and 'content'"
        )
    if turn["from"] not in _ROLES:
        raise TurnsError(f"turn {number} of {CONVERSATIONS!r} is from {turn['from']!r}: use one of {', '.join(_ROLES)}")
    return {"role": _ROLES[turn["from"]], "content": turn["value"]}
