"""Prompts as vLLM's own LLM.generate and LLM.chat render them: chat template, special tokens, truncation."""

from __future__ import annotations

import dataclasses
from typing import Any

from vllm import LLMEngine
from vllm.renderers import ChatParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.utils.mistral import is_mistral_tokenizer

from vllm_hpc.engine.rows.tool_calls import rendered_messages, served_tools
from vllm_hpc.rows.chat import tool_choice
from vllm_hpc.rows.row import Row

_MISTRAL = "vLLM takes no chat template with a Mistral tokenizer: leave it out, or use --engine tokenizer_mode=hf"
_TAKES_CHOICE = "tool_choice" in {field.name for field in dataclasses.fields(ChatParams)}


class PromptMaker:
    """Renders the prompts of rows with the engine's renderer, whose tokenizer may be used from several threads."""

    def __init__(self, engine: LLMEngine, chat_template: str | None = None) -> None:
        self._renderer = engine.renderer
        self._model_config = engine.vllm_config.model_config
        self._has_mistral = is_mistral_tokenizer(self._renderer.tokenizer)
        if chat_template is not None and self._has_mistral:
            raise ValueError(_MISTRAL)
        self._template = chat_template
        # A pooling model is given the conversation; a generating model is asked to continue it.
        self._answers = self._model_config.runner_type != "pooling"

    def __call__(self, row: Row, cuts: dict[str, Any]) -> Any:
        """The prompt for ``LLMEngine.add_request``. Raises whatever the tokenizer or the template raises."""
        return self._chat(row, cuts) if "messages" in row else self._completion(row["prompt"], cuts)

    def _completion(self, prompt: str | list[int], cuts: dict[str, Any]) -> Any:
        given = {"prompt": prompt} if isinstance(prompt, str) else {"prompt_token_ids": prompt}
        parsed = parse_model_prompt(self._model_config, given)
        params = self._renderer.default_cmpl_tok_params.with_kwargs(**cuts)
        (rendered,) = self._renderer.render_cmpl([parsed], params)
        return rendered

    def _chat(self, row: Row, cuts: dict[str, Any]) -> Any:
        own = row.get("chat_template")
        if own and self._has_mistral:
            raise ValueError(_MISTRAL)
        by_ids = self._has_mistral or self._model_config.enable_prompt_embeds
        arguments = {**self.template_arguments(row), "tokenize": by_ids}
        tools = served_tools(row)
        if tools:
            arguments["tools"] = tools
        # Some renderers write the choice of tools themselves (since vLLM 0.27).
        choice = {"tool_choice": tool_choice(row)} if tools and _TAKES_CHOICE else {}
        params = ChatParams(chat_template=own or self._template, chat_template_kwargs=arguments, **choice)
        # The template writes the special tokens.
        tokens = self._renderer.default_chat_tok_params.with_kwargs(**{"add_special_tokens": False, **cuts})
        _, (rendered,) = self._renderer.render_chat([rendered_messages(row)], params, tokens)
        return rendered

    def template_arguments(self, row: Row) -> dict[str, Any]:
        """What the chat template of a row is given beside the messages and the tools. Raises TypeError."""
        own = row.get("chat_template_kwargs") or {}
        if not isinstance(own, dict):
            raise TypeError("'chat_template_kwargs' must be an object")
        begins = self._answers and not own.get("continue_final_message")
        return {"add_generation_prompt": begins, "continue_final_message": False, **own}
