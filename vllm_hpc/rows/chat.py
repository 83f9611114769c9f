"""What a chat may have beside its messages: tools, the choice among them, and the template's text and arguments."""

from __future__ import annotations

import json
from typing import Any

from vllm_hpc.rows.conversations import rows_of_columns
from vllm_hpc.rows.repeated_keys import refuse_repeated
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.spec.chat_template import check_compiles

# The values of tool_choice that are words.
CHOICES = ("none", "auto", "required")
_TOOL = '{"type": "function", "function": {"name": "f", "parameters": {...}}}'


def check_chat(fields: Row, where: str = "") -> None:
    """Check the options of a chat; ``where`` begins every error. Raises RowError."""
    tools = fields.get("tools", [])
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise RowError(f"{where}'tools' must be a list of objects, such as {_TOOL}")
    _check_choice(fields, where)
    if not isinstance(fields.get("parallel_tool_calls", True), bool):
        raise RowError(f"{where}'parallel_tool_calls' must be true or false")
    if "chat_template" in fields:
        _check_template(fields["chat_template"], where)
    _check_arguments(fields.get("chat_template_kwargs", {}), where)


def read_tools(given: Any) -> Any:
    """The tools of a plain row, also from the text or the object of lists as which datasets keep them."""
    if isinstance(given, str):
        try:
            given = json.loads(given, object_pairs_hook=refuse_repeated)
        except (ValueError, RecursionError):
            return given  # check_chat says what it must be
    return rows_of_columns(given)


def tool_choice(row: Row) -> Any:
    """Which tools an answer may call: "none", "auto", "required", or the object that names one function.

    As in vLLM's server: "none" without tools, "auto" if the row does not say.
    """
    return row.get("tool_choice", "auto") if row.get("tools") else "none"


def function_name(tool: Row) -> Any:
    """The name of a tool's function, in OpenAI's shape or bare; None without one."""
    inner = tool.get("function", tool)
    return inner.get("name") if isinstance(inner, dict) else None


def is_openais(tool: Row) -> bool:
    """Whether a tool is in OpenAI's form, as models' templates expect it."""
    return tool.get("type") == "function" and isinstance(tool.get("function"), dict) and bool(function_name(tool))


def _check_choice(fields: Row, where: str) -> None:
    choice, tools = fields.get("tool_choice", "auto"), fields.get("tools", [])
    if isinstance(choice, dict):
        name = function_name(choice) if choice.get("type", "function") == "function" and "function" in choice else None
        if not isinstance(name, str) or not name:
            raise RowError(
                f"{where}'tool_choice' must be none, auto, required, or "
                '{"type": "function", "function": {"name": "f"}}'
            )
        if name not in [function_name(tool) for tool in tools]:
            raise RowError(f"{where}'tool_choice' names {name!r}, which is not among the 'tools': add it")
    elif choice not in CHOICES:
        raise RowError(f"{where}'tool_choice' must be none, auto, required, or an object that names a function")
    if choice == "required" and not tools:
        raise RowError(f"{where}'tool_choice' is \"required\", but there are no 'tools': add some, or remove it")
    # Without a choice, a plain row's tools only go into the template, and may have any shape that it takes.
    if fields.get("tool_choice", "none") != "none" and not all(_has_function(tool, bool(where)) for tool in tools):
        raise RowError(f"{where}each of the 'tools' must have a function with a name, as in {_TOOL}")


def _has_function(tool: Row, is_openais: bool) -> bool:
    """Whether a tool can be called; OpenAI's chats have the function in an object of its own."""
    return isinstance(function_name(tool), str) and (not is_openais or "function" in tool)


def _check_template(text: Any, where: str) -> None:
    if not isinstance(text, str) or not text:
        raise RowError(f"{where}'chat_template' must be a string, a Jinja template")
    try:
        check_compiles(text)
    except ValueError as error:
        raise RowError(f"{where}'chat_template' does not compile: {error}") from None
    if "messages" not in text:  # the name or the path of one, say: every prompt would be that word
        raise RowError(
            f"{where}'chat_template' does not use 'messages': write the text of a Jinja template, not its name, or use "
            "--chat-template FILE"
        )


def _check_arguments(arguments: Any, where: str) -> None:
    if not isinstance(arguments, dict):
        raise RowError(f"{where}'chat_template_kwargs' must be an object, such as {{\"enable_thinking\": false}}")
    if "chat_template" in arguments:
        raise RowError(f"{where}'chat_template_kwargs' cannot have a chat_template: use the field 'chat_template'")
    # In vLLM's server an answer begins a new message unless a body says not; a plain row means one or the other.
    begins = arguments.get("add_generation_prompt", bool(where))
    if arguments.get("continue_final_message") and begins:
        raise RowError(
            f'{where}"continue_final_message": true also needs "add_generation_prompt": false: '
            "an answer either continues the last message or begins a new one"
        )
