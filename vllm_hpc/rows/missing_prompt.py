"""What is said of a row without a prompt: which fields it has, what it may be, and which option would help."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Any

from vllm_hpc.rows.conversations import CONVERSATIONS, is_turns
from vllm_hpc.rows.likely import NEVER, QUESTIONS, has_one, prompt_advice, template_of, words_of
from vllm_hpc.rows.row import Row
from vllm_hpc.rows.wrapped import COLUMNS, take_out

_MOST_NAMES, _LONGEST_NAME = 8, 60


def without_prompt(fields: Row, why: str = "") -> str:
    """Why a row has no prompt, and what to do; ``why``: what is known of it."""
    if "prompt" in fields:
        return (
            "a row needs either 'prompt' or 'messages', not both: use --rename prompt=NAME to run the messages, or "
            "--prompt-column prompt to run the prompt"
        )
    if "body" in fields and "custom_id" in fields:
        return "this is an OpenAI batch request, but the first line is not: use one kind per file"
    if why:
        return with_hint(f"a row needs either 'prompt' or 'messages', and {why}", fields)
    words = f"a row needs either 'prompt' or 'messages', this one has {some_names(fields)}"
    if (hinted := with_hint(words, fields)) != words:
        return hinted
    return f"{words}: {advice_for(fields)}"


def advice_for(fields: Row) -> str:
    """What to do about fields without a prompt: the likeliest option, or how to take a chat or rows out of them."""
    chats = {name: value for name, value in fields.items() if is_turns(value)}
    others = {name: value for name, value in chats.items() if NEVER.isdisjoint(words_of(name))}
    return _chat_advice(fields, others) or take_out(fields) or _chat_advice(fields, chats) or prompt_advice(fields)


def with_hint(words: str, fields: Row) -> str:
    """An error with what such a row is, if it comes from an output file."""
    error = fields.get("error")
    if isinstance(error, dict) and {"type", "message"} <= error.keys():
        hint = "an earlier job wrote it for a row with an error: leave these out, as jq -c 'select(.error | not)' does"
    elif "custom_id" in fields and ("response" in fields or "result" in fields):
        maker = "an OpenAI" if "response" in fields else "an Anthropic"
        hint = f"it is a line of {maker} batch's output, {_of_output(fields)}"
    else:
        return words
    return f"{words}; {hint}"


def _of_output(fields: Row) -> str:
    """What to do about a line of a batch's output: its prompt is in the input; its answer may be worked on."""
    name = "response" if "response" in fields else "result"
    answers = ("body.choices[0].message.content", "body.choices[0].text", "message.content[0].text")
    if answer := next((path for path in answers if _is_text(fields[name], path)), None):
        template = shlex.quote(f"{{{{ {name}.{answer} }}}}")
        return f"which has no prompt: use the batch's input, or --prompt-template {template} for its answers"
    if name == "response":
        good = "jq -c 'select(.response.status_code == 200)'"
        return f"of a request without an answer in text: use the batch's input, or leave these out, as {good} does"
    return "which has no prompt: use the batch's input"


def _is_text(value: Any, path: str) -> bool:
    """Whether there is a text at a path of names and first items."""
    for step in path.replace("[0]", ".0").split("."):
        if step == "0":
            value = value[0] if isinstance(value, list) and value else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return isinstance(value, str)


def some_names(names: Collection[str]) -> str:
    """The names of fields for an error."""
    shown = ", ".join(repr(_shortened(name)) for name in list(names)[:_MOST_NAMES])
    return f"{shown} ..." if len(names) > _MOST_NAMES else shown or "nothing"


def _shortened(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3]}..."


def of_another_kind(prompt: Any, name: str) -> str:
    """What a prompt may be that is neither text nor token ids; another ``name`` than its own is --prompt-column's."""
    if is_turns(prompt):
        return f", not a chat: {_as_chat(prompt, name)}"
    if isinstance(prompt, int | float):
        return f": write it in quotes, or use --prompt-template {shlex.quote(str(template_of(name, '')))}"
    if isinstance(prompt, dict) and all(key.isdecimal() for key in prompt):
        return f": {COLUMNS}"
    template = template_of(name, prompt)
    if template is None:
        return ""
    each = "write one row for each text, or " if isinstance(prompt, list) else ""
    return f": {each}use --prompt-template {shlex.quote(template)}"


def _as_chat(turns: Any, name: str) -> str:
    """How a field that is a chat is run as one."""
    if name in ("messages", CONVERSATIONS):
        return f"leave --prompt-column {name} out, and the chat is run"
    new = "messages" if "role" in turns[0] else CONVERSATIONS
    rename = f"use --rename {shlex.quote(name)}={new}"
    return rename if name == "prompt" else f"{rename} instead of --prompt-column"


def of_no_object(value: Any) -> str:
    """What to do about a row that is a text or a chat; nothing for other values."""
    if isinstance(value, str):
        return ": write {\"prompt\": ...}, as jq -c '(arrays[] // .) | {prompt: .}' does"
    return ": write {\"messages\": ...}, as jq -c '.[] | {messages: .}' does" if is_turns(value) else ""


def _chat_advice(fields: Row, chats: Row) -> str | None:
    """What to do about the first of the fields that are chats; None if there is none, or a question beside it."""
    if is_turns([fields]):
        program = '{messages: (if type == "array" then . else [.] end)}'
        return f"if it is a message of a chat, write {{\"messages\": [...]}}, as jq -c '{program}' does"
    if not chats or has_one({name: "" for name, value in fields.items() if isinstance(value, str)}, QUESTIONS):
        return None
    name, turns = next(iter(chats.items()))
    last = turns[-1]
    is_answer = (last.get("role") or last.get("from")) in ("assistant", "gpt", "chatgpt", "model")
    drop = " --drop-last-answer (it ends with an answer)" if is_answer else ""
    return f"use --rename {shlex.quote(name)}={CONVERSATIONS}{drop}"
