"""Prompts as vLLM's own LLM.generate and LLM.chat render them: chat template, special tokens, truncation."""

from __future__ import annotations

from typing import Any

from vllm import LLMEngine
from vllm.renderers import ChatParams
from vllm.renderers.inputs.preprocess import parse_model_prompt
from vllm.utils.mistral import is_mistral_tokenizer

from vllm_hpc.rows.row import Row


class PromptMaker:
    """Renders the prompts of rows with the engine's renderer, whose tokenizer may be used from several threads."""

    def __init__(self, engine: LLMEngine) -> None:
        self._renderer = engine.renderer
        self._model_config = engine.vllm_config.model_config
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
        params = ChatParams(chat_template_kwargs=self._template_arguments(row))
        # The template writes the special tokens.
        tokens = self._renderer.default_chat_tok_params.with_kwargs(**{"add_special_tokens": False, **cuts})
        _, (rendered,) = self._renderer.render_chat([row["messages"]], params, tokens)
        return rendered

    def _template_arguments(self, row: Row) -> dict[str, Any]:
        own = row.get("chat_template_kwargs") or {}
        if not isinstance(own, dict):
            raise TypeError("'chat_template_kwargs' must be an object")
        tools = {"tools": row["tools"]} if row.get("tools") else {}
        by_ids = is_mistral_tokenizer(self._renderer.tokenizer) or self._model_config.enable_prompt_embeds
        return {
            "add_generation_prompt": self._answers,
            "continue_final_message": False,
            **own,
            **tools,
            "tokenize": by_ids,
        }
