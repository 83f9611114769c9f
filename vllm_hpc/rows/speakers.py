"""Chats of other forms, for advice: a list of turns that say who speaks and what, under names of their own."""

from __future__ import annotations

import json
from typing import Any

# What the speaker and the text of a turn are called.
_WHO = ("role", "sender", "speaker", "author", "from", "type")
_WHAT = ("content", "text", "value", "utterance", "message")
# Objects in which LangChain has the text of a turn (messages_to_dict).
_WITHIN = "data"
# Who speaks, in lower case, and the role.
_ROLES = {
    "user": "user", "human": "user", "customer": "user", "prompter": "user", "assistant": "assistant",
    "bot": "assistant", "ai": "assistant", "gpt": "assistant", "model": "assistant", "agent": "assistant",
    "chatbot": "assistant", "system": "system",
}  # fmt: skip


def messages_program(path: str, turns: Any) -> str | None:
    """The jq program for the messages of turns; None if they are none, or speakers are not known as roles."""
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, dict) for turn in turns):
        return None
    who = _name(turns, _WHO)
    what = _name(turns, _WHAT)
    inner = [turn.get(_WITHIN) for turn in turns]
    if what is None and all(isinstance(one, dict) for one in inner) and (found := _name(inner, _WHAT)):
        what = f"{_WITHIN}.{found}"
    if who is None or what is None:
        return None
    speakers = dict.fromkeys(turn[who] for turn in turns)
    if any(speaker.lower() not in _ROLES for speaker in speakers):
        return None
    roles = {speaker: _ROLES[speaker.lower()] for speaker in speakers}
    return f"[{path}[] | {{role: {json.dumps(roles)}[.{who}], content: .{what}}}]"


def _name(turns: list[Any], names: tuple[str, ...]) -> str | None:
    """The first of some names that is a text in every turn."""
    return next((name for name in names if _are_texts(turns, name)), None)


def _are_texts(turns: list[dict[str, Any]], name: str) -> bool:
    return all(isinstance(turn.get(name), str) for turn in turns)
