"""Decodes the text of a row that has ended, token by token like vLLM's own detokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm import SamplingParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer


def decode_by_token(tokenizer: Any, prompt: list[int] | None, tokens: list[int], params: SamplingParams) -> str:
    """The text of ``tokens`` after ``prompt``, token by token."""
    request: Any = SimpleNamespace(request_id="", prompt_token_ids=prompt, prompt_embeds=None, sampling_params=params)
    slow: Any = IncrementalDetokenizer.from_new_request(tokenizer, request)
    slow.update(list(tokens), False)
    return str(slow.output_text)
