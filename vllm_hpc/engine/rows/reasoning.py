"""Reasoning models: vLLM's parser for the model separates the reasoning from the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from vllm_hpc.rows.row import Row

if TYPE_CHECKING:
    from vllm import LLMEngine


class Parts(NamedTuple):
    """A text in two parts; ``reasoning`` is None where the parser found none."""

    reasoning: str | None
    text: str


class ReasoningSplit:
    """Splits answers to chats, by the parser of ``--engine reasoning_parser=NAME``."""

    def __init__(self, name: str, tokenizer: Any) -> None:
        from vllm.reasoning import ReasoningParserManager

        self._parser = ReasoningParserManager.get_reasoning_parser(name)
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, engine: LLMEngine) -> ReasoningSplit | None:
        """The parser that the engine was started with; None without one."""
        config = engine.vllm_config.structured_outputs_config
        if not config.reasoning_parser:
            return None
        if config.reasoning_parser_plugin:
            from vllm.reasoning import ReasoningParserManager

            ReasoningParserManager.import_reasoning_parser(config.reasoning_parser_plugin)
        return cls(config.reasoning_parser, engine.get_tokenizer())

    def __call__(self, row: Row, text: str) -> Parts:
        """Split the answer to a row. Raises whatever the parser raises."""
        from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

        arguments = row.get("chat_template_kwargs") or {}
        # A new parser for every row: some depend on the template's arguments, and some keep state.
        parser = self._parser(self._tokenizer, chat_template_kwargs=arguments)
        request = ChatCompletionRequest(messages=row["messages"], chat_template_kwargs=arguments)
        reasoning, content = parser.extract_reasoning(text, request=request)
        return Parts(reasoning, content or "")
