"""Reasoning models: the thinking and the answer, told apart by vLLM's parser for the model."""

from __future__ import annotations

from typing import Any, NamedTuple

from vllm import LLMEngine
from vllm.reasoning import ReasoningParserManager

from vllm_hpc.rows.row import Row


class Parts(NamedTuple):
    """A text in two; ``reasoning`` None where the parser found none."""

    reasoning: str | None
    text: str


class ReasoningSplit:
    """Splits answers to chats as ``--engine reasoning_parser=NAME`` says."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        self._parser = ReasoningParserManager.get_reasoning_parser(name)
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, engine: LLMEngine) -> ReasoningSplit | None:
        """The parser that the engine was started with, None without one."""
        config = engine.vllm_config.structured_outputs_config
        if not config.reasoning_parser:
            return None
        if config.reasoning_parser_plugin:
            ReasoningParserManager.import_reasoning_parser(config.reasoning_parser_plugin)
        return cls(config.reasoning_parser, engine.get_tokenizer())

    def __call__(self, row: Row, text: str) -> Parts:
        """Split the answer to a row. Raises what the parser raises."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        arguments = row.get("chat_template_kwargs") or {}
        # A parser of its own for every row: some depend on what the template was told, and some keep a state.
        parser = self._parser(self._tokenizer, chat_template_kwargs=arguments)
        request = ChatCompletionRequest(messages=row["messages"], chat_template_kwargs=arguments)
        reasoning, content = parser.extract_reasoning(text, request=request)
        return Parts(reasoning, content or "")
