"""Translates what an OpenAI chat request asks of the chat template, and of how its answer is shown."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.chat import check_chat
from vllm_hpc.rows.openai_sampling import shorten
from vllm_hpc.rows.row import Row, RowError

# vllm/entrypoints/openai/chat_completion/protocol.py, ChatCompletionRequest.reasoning_effort (0.26 to 0.33)
_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
_FLAGS = ("add_generation_prompt", "continue_final_message", "parallel_tool_calls", "include_reasoning", "echo")


def take_chat_options(body: Row) -> Row:
    """Remove and return tools and template of a request, as the fields of a row. Raises RowError.

    As in vLLM's server, where all that the template is given is an argument of it (build_chat_params).
    """
    for name in _FLAGS:
        if not isinstance(body.get(name, True), bool):
            raise RowError(f"body: {name!r} must be true or false")
    names = ("tool_choice", "chat_template", "parallel_tool_calls")
    options: Row = {key: body.pop(key) for key in names if key in body}
    if (tools := body.pop("tools", [])) != []:
        options = {"tools": tools, "tool_choice": "auto", **options}
    elif options.get("tool_choice") in ("auto", "none"):
        del options["tool_choice"]
    if options.get("parallel_tool_calls") is True:
        del options["parallel_tool_calls"]
    if (arguments := _template_arguments(body)) != {}:
        options["chat_template_kwargs"] = arguments
    check_chat(options, "body: ")
    return options


def take_shown(body: Row) -> Row:
    """Remove and return whether reasoning is left out and the last message is repeated, if a request asks for it."""
    shown = {}
    if body.pop("include_reasoning", True) is False:
        shown["include_reasoning"] = False
    if body.pop("echo", False) is True:
        shown["echo"] = True
    return shown


def _template_arguments(body: Row) -> Any:
    arguments = body.pop("chat_template_kwargs", {})
    if not isinstance(arguments, dict):
        return arguments  # check_chat says what it must be
    own = dict(arguments)
    for name in ("add_generation_prompt", "continue_final_message", "documents"):
        if name in body:
            own[name] = body.pop(name)
    if not _are_documents(own.get("documents", [])):
        raise RowError('body: \'documents\' must be a list of objects, such as {"title": "t", "text": "..."}')
    if "reasoning_effort" in body:
        effort = own["reasoning_effort"] = body.pop("reasoning_effort")
        if effort not in _EFFORTS:
            raise RowError(f"body: 'reasoning_effort' must be one of {', '.join(_EFFORTS)}, not {shorten(effort)}")
        own.setdefault("enable_thinking", effort != "none")
    return own


def _are_documents(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(one, dict) for one in value))
