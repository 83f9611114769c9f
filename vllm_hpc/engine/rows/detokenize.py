"""The text of a finished row, decoded in one go.

For streaming, vLLM decodes every token in the step that made it: 6 % of the time of a step of 512 sequences on an H100,
where steps wait for Python (docs/performance.md). In a batch, nobody reads the text before the row ends.
"""

from __future__ import annotations

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream
from vllm import LLMEngine, SamplingParams

from vllm_hpc.engine.vllm_patches import is_on


class TextMaker:
    """Makes texts from token ids like vLLM's own detokenizer, on any thread."""

    def __init__(self, engine: LLMEngine) -> None:
        self._tokenizer = engine.renderer.tokenizer
        inner = getattr(self._tokenizer, "_tokenizer", None)
        self._fast = inner if isinstance(inner, Tokenizer) and is_on("late-text") else None

    def can_wait(self, params: SamplingParams) -> bool:
        """Whether only the answer itself needs the text: no stop strings, and no texts of single tokens."""
        if self._fast is None or not params.detokenize or params.stop:
            return False
        reads_tokens = params.logprobs is not None or params.prompt_logprobs is not None
        return not reads_tokens and (params.skip_special_tokens or params.spaces_between_special_tokens)

    def __call__(self, prompt: list[int] | None, tokens: list[int], is_stopped: bool, params: SamplingParams) -> str:
        """The text of ``tokens`` after ``prompt``, without the token that stopped the row, if one did."""
        kept = tokens[:-1] if is_stopped and not params.include_stop_str_in_output else tokens
        if not kept:
            return ""
        assert self._fast is not None  # can_wait
        try:
            stream = DecodeStream(ids=prompt or [], skip_special_tokens=params.skip_special_tokens)
            text = stream.step(self._fast, list(kept))
        except Exception:  # noqa: BLE001 - text that is not UTF-8; the tokenizer has no type of its own for it
            text = None
        # None: it ends within a character, or is empty. How bytes that are not UTF-8 decode depends on the steps.
        if text is not None and "\ufffd" not in text:
            return text
        from vllm_hpc.engine.vllm_patches.late_text import decode_by_token

        return decode_by_token(self._tokenizer, prompt, kept, params)
