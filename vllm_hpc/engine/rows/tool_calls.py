"""Tools in chats: vLLM's own parsers constrain an answer to calls, and read the calls in it, as in its server.

docs/rows.md says what a row may ask for. vLLM's code for it is in entrypoints/openai/chat_completion/serving.py,
renderers/online_renderer.py and parser/abstract_parser.py (0.26 and 0.32).
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_hpc.rows.chat import tool_choice
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.server_arguments import PLUGIN, TOOL_PARSER

if TYPE_CHECKING:
    from collections.abc import Callable

    from vllm import LLMEngine, SamplingParams
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.parser import Parser

# What a parser may change of a request that SamplingParams has under the same name.
_ADJUSTED = ("structured_outputs", "skip_special_tokens", "spaces_between_special_tokens")
# The end of a random id: vLLM's has 16 hexadecimal digits, that of a Mistral model 9 letters and digits.
_RANDOM = re.compile(r"[0-9A-Za-z]{9,}$")


class Answer(NamedTuple):
    """An answer to a row that offers tools. ``text`` is None if it has nothing but calls."""

    text: str | None
    reasoning: str | None
    tool_calls: list[Row]
    finish_reason: str | None


class ToolParsers:
    """A job's parsers of tool calls: the one of --engine tool_call_parser; without it, for calls that a row demands."""

    def __init__(self, engine: LLMEngine, arguments: dict[str, Any]) -> None:
        self._model_config = engine.vllm_config.model_config
        self._tokenizer = engine.renderer.tokenizer
        self._reasoning: str = engine.vllm_config.structured_outputs_config.reasoning_parser
        self._is_harmony = self._model_config.hf_config.model_type == "gpt_oss"
        self._own: Any = None  # subclasses of vllm.parser.Parser
        self._json: Any = None
        if arguments.get(TOOL_PARSER):
            self._own = self._load(arguments)
            self._make(self._own, {})(None)  # raises if it needs another tokenizer

    def __call__(self, row: Row, params: SamplingParams, arguments: dict[str, Any]) -> ToolReader | None:
        """What reads the calls in the answer to a chat; None if it offers no tools, or if nothing here can read them.

        ``params`` are changed as the parser needs it; ``arguments`` are those of the chat template. Raises whatever
        vLLM says is wrong with the tools.
        """
        choice = tool_choice(row)
        if choice == "none" or (choice == "auto" and self._own is None):
            return None
        kind = self._own or self._of_json()
        reader = ToolReader(row, self._make(kind, arguments), has_reasoning=kind.reasoning_parser_cls is not None)
        reader.adjust(params)
        return reader

    def _make(self, kind: Any, arguments: dict[str, Any]) -> Callable[..., Parser]:
        return partial(kind, self._tokenizer, model_config=self._model_config, chat_template_kwargs=arguments)

    def _load(self, arguments: dict[str, Any]) -> Any:
        from vllm.parser import ParserManager
        from vllm.tool_parsers import ToolParserManager

        if plugin := arguments.get(PLUGIN):
            ToolParserManager.import_tool_parser(plugin)
        kind: Any = ParserManager.get_parser(
            tool_parser_name=arguments[TOOL_PARSER],
            reasoning_parser_name=self._reasoning,
            enable_auto_tools=True,
            model_name=self._model_config.model,
            is_harmony=self._is_harmony,
        )
        assert kind is not None  # there is a name
        return kind

    def _of_json(self) -> Any:
        """The parser of a model without one: a call that is demanded is JSON of the tool's schema.

        vLLM's base class does that for all models whose own format is not known better. Raises ValueError.
        """
        if self._is_harmony:
            raise ValueError("tool_choice needs --engine tool_call_parser=openai with this model")
        if self._json is None:
            from vllm.parser import DelegatingParser, ParserManager
            from vllm.tool_parsers import ToolParser

            names = {
                "reasoning_parser_cls": ParserManager.get_reasoning_parser(self._reasoning),
                "tool_parser_cls": ToolParser,
            }
            self._json = type("JsonCalls", (DelegatingParser,), names)
        return self._json


class ToolReader:
    """Reads the answers to one row. ``make`` makes a parser, new for each answer: some keep state."""

    def __init__(self, row: Row, make: Callable[..., Parser], has_reasoning: bool) -> None:
        self._row, self._make = row, make
        self.has_reasoning = has_reasoning
        self._request = _request(row)

    def adjust(self, params: SamplingParams) -> None:
        """Constrain the answer to calls where the row demands them, and keep the tokens that the parser looks for."""
        for name in _ADJUSTED:
            setattr(self._request, name, getattr(params, name))
        self._request = self._make(self._request.tools).adjust_request(request=self._request)
        for name in _ADJUSTED:
            setattr(params, name, getattr(self._request, name))

    def __call__(self, output: Any, text: str, prompt: list[int] | None) -> Answer:
        """The parts of one of vLLM's CompletionOutputs, whose text is ``text``. Raises whatever the parser raises."""
        request = self._request
        parser = self._make(request.tools)
        if prompt is not None and hasattr(parser, "set_prompt_token_ids"):  # vLLM 0.26 has none
            parser.set_prompt_token_ids(prompt)
        reasoning, content, calls = parser.parse(
            text, request, enable_auto_tools=True, model_output_token_ids=output.token_ids
        )
        kept = (calls or [])[: 1 if request.parallel_tool_calls is False else None]
        found = [self._call(call, f"{output.index}:{number}", text) for number, call in enumerate(kept)]
        # chat_completion_full_generator: a call that was demanded by name ends as any other text.
        is_called = bool(found) if request.tool_choice == "auto" else request.tool_choice == "required"
        if request.tool_choice != "auto":
            content = content or ""
        reason = output.finish_reason
        if is_called and (request.tool_choice == "auto" or reason == "stop"):
            reason = "tool_calls"
        return Answer(content, reasoning, found, reason)

    def _call(self, call: Any, place: str, text: str) -> Row:
        seed = [self._row["index"], self._row["id"], place]
        identity = settled_id(call.id, call.name, text, seed)
        return {"id": identity, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def settled_id(given: str | None, function: str, text: str, seed: list[Any]) -> str:
    """The id of a call, of the shape that its parser gives, but the same whenever the row runs.

    The model's own, which is in its text, and Kimi's, made of the function's name and a number, are kept.
    """
    if given and (given in text or f"{function}:" in given):
        return given
    digest = hashlib.blake2b(json.dumps(seed).encode(), digest_size=32).hexdigest()
    return _RANDOM.sub(lambda found: digest[: len(found[0])], given or f"chatcmpl-tool-{'0' * 16}")


def rendered_messages(row: Row) -> list[Row]:
    """The messages for the chat template. In a request of OpenAI's, earlier calls have the keys of vLLM's server.

    Templates may write a call as it is, and so see the order of its keys. Raises pydantic's error.
    """
    messages: list[Row] = row["messages"]
    if not any("tool_calls" in message for message in messages):
        return messages
    # vLLM turns the arguments of calls into objects in place, and its parsers want them as they were.
    copied = copy.deepcopy(messages)
    if "batch" not in row:
        return copied
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return list(ChatCompletionRequest.model_validate({"messages": copied}).messages)


def served_tools(row: Row) -> list[Row] | None:
    """The tools for the chat template. A request of OpenAI's gets them as vLLM's server writes them, with all keys."""
    tools: list[Row] = row.get("tools") or []
    if not tools or "batch" not in row:
        return tools or None
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam

    if tool_choice(row) == "none" and not all(isinstance(tool.get("function"), dict) for tool in tools):
        return tools  # nothing is called
    return [ChatCompletionToolsParam.model_validate(tool).model_dump() for tool in tools]


def _request(row: Row) -> ChatCompletionRequest:
    """The row as a request to vLLM's server, as far as parsers look at it. Raises pydantic's error."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    tools = [tool if "function" in tool else {"type": "function", "function": tool} for tool in row["tools"]]
    asked = {
        "messages": [_with_texts(message) for message in copy.deepcopy(row["messages"])],
        "tools": copy.deepcopy(tools),
        "tool_choice": tool_choice(row),
        "parallel_tool_calls": row.get("parallel_tool_calls", True),
        "chat_template_kwargs": row.get("chat_template_kwargs"),
        "include_reasoning": row.get("batch", {}).get("include_reasoning", True),
    }
    return ChatCompletionRequest.model_validate(asked)


def _with_texts(message: Row) -> Row:
    """A message whose earlier calls have their arguments as text, as OpenAI's do; templates also take objects."""
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict) and not isinstance(function.get("arguments", ""), str):
            function["arguments"] = json.dumps(function["arguments"])
    return message
