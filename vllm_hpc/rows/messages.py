"""Checks a chat's messages: whatever vLLM can answer passes, but no turn that vLLM would read as an empty one.

vLLM takes a message without content (vllm/renderers/chat_utils.py, _parse_chat_message_content: None becomes ""), and
so answers a misspelt one as if nothing had been said.
"""

from __future__ import annotations

import shlex
from typing import Any

from vllm_hpc.rows.conversations import CONVERSATIONS, rows_of_columns
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.speakers import messages_program

Messages = list[dict[str, Any]]

# What a turn may have instead of content: an assistant's calls or reasoning, a developer's tools.
_INSTEAD = ("tool_calls", "function_call", "reasoning", "reasoning_content", "tools")
# Parts without a type that vLLM knows by another key (_parse_chat_message_content_mm_part).
_TYPELESS = frozenset(
    {"image_url", "image_embeds", "audio_embeds", "video_embeds", "prompt_embeds", "audio_url", "input_audio"}
    | {"video_url", "tool_reference"}
)
# Types of parts that are text, and where it is. vLLM skips one without its text.
_TEXT = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
_EXAMPLE = '{"type": "text", "text": "Hi"}'


def checked_messages(messages: Any, path: str = ".messages") -> Messages:
    """The messages at ``path`` of a row, without fields that are null. Raises RowError, which names the message.

    A null ``content`` stays: OpenAI writes it beside ``tool_calls``.
    """
    messages = rows_of_columns(messages)
    if not isinstance(messages, list) or not messages:
        such_as = ', such as [{"role": "user", "content": "Hi"}]'
        raise RowError(f"'messages' must be a list of messages{', not an empty one' if messages == [] else such_as}")
    if not all(map(_has_role, messages)):
        raise RowError(f"every message must be an object with a 'role', and its 'content'{_hint(messages, path)}")
    return [_checked(message, number) for number, message in enumerate(messages, 1)]


def without_nulls(value: Any) -> Any:
    """A value without the fields of objects that are null, at any depth."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    return [without_nulls(one) for one in value] if isinstance(value, list) else value


def _hint(messages: list[Any], path: str) -> str:
    """Which message has no role, what it has, and what to do."""
    if all(isinstance(message, dict) and "from" in message for message in messages):
        return f": use --rename messages={CONVERSATIONS}"
    number, message = next((number, one) for number, one in enumerate(messages, 1) if not _has_role(one))
    found = f", but message {number} {_found(message)}"
    program = messages_program(".", messages)
    return f"{found}: write them so, as jq -c {shlex.quote(f'{path} |= {program}')} does" if program else found


def _has_role(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


def _found(message: Any) -> str:
    if not isinstance(message, dict):
        return "is text" if isinstance(message, str) else f"is {_kind(message)}"
    if "role" in message:
        return f"has a 'role' that is {_kind(message['role'])}"
    return f"has {', '.join(repr(_shorten(name)) for name in list(message)[:8]) or 'nothing'}"


def _checked(message: Row, number: int) -> Row:
    content = message.get("content")
    if None in message.values():
        message = {key: value for key, value in message.items() if value is not None or key == "content"}
    if isinstance(calls := message.get("tool_calls"), list):
        message = {**message, "tool_calls": [_call(call) for call in calls]}
    if isinstance(content, str):
        return message
    place = f"message {number} ({_shorten(message['role'])!r})"
    if isinstance(content, list):
        return {**message, "content": _parts(content, place)}
    if content is not None:
        raise RowError(f"{place}: 'content' must be text or a list of parts, not {_kind(content)}")
    if not any(message.get(key) for key in _INSTEAD):
        raise RowError(f"{place} {_without_content(message)}")
    return message


def _call(call: Any) -> Any:
    """A tool call without null fields; its arguments are data."""
    if not isinstance(call, dict):
        return call
    call = {key: value for key, value in call.items() if value is not None}
    if isinstance(function := call.get("function"), dict):
        call["function"] = {key: value for key, value in function.items() if value is not None}
    return call


def _without_content(message: Row) -> str:
    if "parts" in message:
        return "has 'parts', as Gemini's have: write 'content', which is text or a list of parts with a 'type'"
    return "has no 'content': write text or a list of parts; it may be null only beside 'tool_calls' or 'function_call'"


def _parts(content: list[Any], place: str) -> list[Any]:
    if not content:
        raise RowError(f"{place}: 'content' is an empty list: write text, or parts such as {_EXAMPLE}")
    return [_part(part, f"{place}: part {number} of 'content'") for number, part in enumerate(content, 1)]


def _part(part: Any, place: str) -> Any:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise RowError(f"{place} must be text or an object such as {_EXAMPLE}, not {_kind(part)}")
    if part.get("uuid") is None:  # with it, null means media that vLLM has in its cache
        part = without_nulls(part)
    kind = part.get("type")
    if not isinstance(kind, str):
        if "type" in part or _TYPELESS.isdisjoint(part):
            raise RowError(f"{place} must have a 'type', such as {_EXAMPLE}")
    elif kind in _TEXT and not isinstance(part.get(_TEXT[kind]), str):
        raise RowError(f"{place} is of type {kind!r}, so its {_TEXT[kind]!r} must be text, such as {_EXAMPLE}")
    return part


def _kind(value: Any) -> str:
    names = {bool: "true or false", dict: "an object", list: "a list", type(None): "null"}
    return names.get(type(value), "a number")


def _shorten(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
