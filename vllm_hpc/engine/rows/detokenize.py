"""The text of a finished row, decoded in one go.

vLLM decodes every token in the step that made it, for those who stream: 6 % of the time of a step of 512 sequences on
an H100, where Python is what a step waits for (docs/performance.md). Nobody reads a batch's texts before its rows end.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from vllm import LLMEngine, SamplingParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer


class TextMaker:
    """Makes texts out of token ids as vLLM's own detokenizer does, on any thread."""

    def __init__(self, engine: LLMEngine) -> None:
        self._tokenizer = engine.renderer.tokenizer
        inner = getattr(self._tokenizer, "_tokenizer", None)
        self._fast = inner if isinstance(inner, Tokenizer) else None

    def can_wait(self, params: SamplingParams) -> bool:
        """Whether nothing but the answer itself needs the text: no stop string, and no token's own text beside it."""
        if self._fast is None or not params.detokenize or params.stop:
            return False
        reads_tokens = params.logprobs is not None or params.prompt_logprobs is not None
        return not reads_tokens and (params.skip_special_tokens or params.spaces_between_special_tokens)

    def __call__(self, prompt: list[int] | None, tokens: list[int], is_stopped: bool, params: SamplingParams) -> str:
        """The text of ``tokens`` after ``prompt``; of one that a token has stopped, that token is no part."""
        kept = tokens[:-1] if is_stopped and not params.include_stop_str_in_output else tokens
        if not kept:
            return ""
        assert self._fast is not None  # can_wait
        try:
            stream = DecodeStream(ids=prompt or [], skip_special_tokens=params.skip_special_tokens)
            text = stream.step(self._fast, list(kept))
        except Exception:  # noqa: BLE001 - the tokenizer's own, of no type of theirs: text that is no UTF-8
            text = None
        # None: it ends within a character, or is empty. What bytes that are no UTF-8 become depends on the steps.
        return self._token_by_token(prompt, kept, params) if text is None or "\ufffd" in text else text

    def _token_by_token(self, prompt: list[int] | None, tokens: list[int], params: SamplingParams) -> str:
        """As vLLM would have done it in each step."""
        request: Any = SimpleNamespace(
            request_id="", prompt_token_ids=prompt, prompt_embeds=None, sampling_params=params
        )
        slow: Any = IncrementalDetokenizer.from_new_request(self._tokenizer, request)
        slow.update(list(tokens), False)
        return str(slow.output_text)
