"""Rows made ready for a rehearsal: our own checks, the limits of sampling, and an estimate of the prompt's length."""

from __future__ import annotations

import math
import os
from functools import cache
from typing import Annotated, Any

import msgspec

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.rows.checks import (
    adapter_of,
    check_embedding,
    check_names,
    check_task,
    cuts_of,
    in_vllm_names,
)
from vllm_hpc.engine.rows.constraint import checked_constraint
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS
from vllm_hpc.spec.sampling_names import CUTS
from vllm_hpc.spec.vllm_arguments import sampling_names
from vllm_hpc.spec.vllm_defaults import whole

# A tokenizer's average for English text.
_CHARACTERS_A_TOKEN = 4

_Count = Annotated[int, msgspec.Meta(ge=1)]
_Whole = Annotated[int, msgspec.Meta(ge=0)]
_OrAll = Annotated[int, msgspec.Meta(ge=-1)]
# The longest answer that a rehearsal makes up where the model's length is not known; vLLM always knows it.
_LONGEST = 1 << 31
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
# vLLM's own: below it sampling is greedy; the most outputs of a row, and logprobs of a token, unless it is told.
_GREEDY, _MAX_N, _MAX_LOGPROBS = 1e-5, 16384, 20


class RepetitionLimits(msgspec.Struct, frozen=True):
    """When an answer is ended because it repeats itself; as vLLM's RepetitionDetectionParams. Raises ValueError."""

    max_pattern_size: _Whole = 0
    min_pattern_size: _Whole = 0
    min_count: int = 0

    def __post_init__(self) -> None:
        if self.min_pattern_size > self.max_pattern_size:
            raise ValueError("min_pattern_size must be at most max_pattern_size")
        if self.max_pattern_size and self.min_count < 2:
            raise ValueError("min_count must be 2 or more")


class RehearsedParams(msgspec.Struct, frozen=True, kw_only=True):
    """A row's sampling parameters that a rehearsal uses, and the limits of the others.

    The limits are those of vllm/sampling_params.py, _verify_args. Values are converted as in vLLM: "8" is 8. Raises
    msgspec's error for a wrong type or bound, ValueError for values that contradict each other.
    """

    n: _Count = 1
    max_tokens: _Count | None = None
    min_tokens: _Whole = 0
    temperature: _Temperature = 1.0
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    top_k: _OrAll = 0
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.0
    presence_penalty: _Penalty = 0.0
    frequency_penalty: _Penalty = 0.0
    repetition_penalty: _Positive = 1.0
    logprobs: _OrAll | None = None
    prompt_logprobs: _OrAll | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    bad_words: list[str] | None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    detokenize: bool = True
    stream_interval: _Count | None = None
    extra_args: dict[str, Any] | None = None
    thinking_token_budget: _OrAll | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    flat_logprobs: bool = False
    watermarking: bool | None = None
    skip_reading_prefix_cache: bool | None = None
    logprob_token_ids: list[int] | None = None
    trace_decode_token_ids: list[int] | None = None
    prompt_logprob_start: int | None = None
    routed_experts_prompt_start: int = 0
    output_text_buffer_length: int = 0
    repetition_detection: RepetitionLimits | None = None
    embeds: bool = False

    def __post_init__(self) -> None:
        most = _most_outputs()
        for is_wrong, what in (
            (self.n > most, f"n must be at most {most}, not {self.n}"),
            (self.n > 1 and self.temperature < _GREEDY, f"n must be 1 when sampling is greedy, not {self.n}"),
            (not math.isfinite(self.repetition_penalty), "repetition_penalty must be a finite number"),
            (bool(self.stop) and not self.detokenize, "stop strings need detokenize=true"),
            ("" in (self.bad_words or ()), "bad_words cannot contain an empty string"),
            (self.allowed_token_ids == [], "allowed_token_ids is empty"),
        ):
            if is_wrong:
                raise ValueError(what)
        try:
            msgspec.msgpack.encode(self.extra_args)
        except OverflowError:
            raise ValueError("extra_args: a whole number must be from -2**63 to 2**64 - 1") from None


class RehearsalRows:
    """Makes rows ready. Raises at once if the job's own sampling is wrong, and for a row whatever is wrong with it."""

    def __init__(self, record: JobRecord, text: Any = None) -> None:
        self._text = text  # makes a row's text from its tokens; None on a rank that does not write
        engine = record.plan.engine
        self._pools = engine.get("runner") == "pooling"
        self._adapters = [adapter.name for adapter in record.adapters]
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **in_vllm_names(record.sampling)}
        positions = record.plan.model.max_positions if record.plan.model else 0
        self._max_model_len = whole(engine.get("max_model_len"), positions)
        self._max_logprobs = whole(engine.get("max_logprobs"), _MAX_LOGPROBS)
        self._created = int(record.created_at)
        self._params({})

    def __call__(self, row: Row) -> Ready:
        """Make a row ready: ``prompt`` is its length in tokens."""
        adapter = adapter_of(row, self._adapters)
        embeds = check_task(row, self._pools) == "embed"
        params = self._embedding(row) if embeds else self._params(row.get("sampling", {}))
        length = self._cut(prompt_tokens(row), {**self._defaults, **row.get("sampling", {})})
        if self._max_model_len and length > self._max_model_len - (not embeds):
            raise ValueError(
                f"the prompt has about {length} tokens (its characters / {_CHARACTERS_A_TOKEN}), "
                f"but max_model_len is {self._max_model_len}"
            )
        return Ready(row, length, self._limited(params, length), adapter, self._text, created=self._created)

    def _params(self, given: dict[str, Any]) -> RehearsedParams:
        merged = {**self._defaults, **in_vllm_names(given)}
        for name in CUTS:
            merged.pop(name, None)
        check_names(merged, sampling_names() or merged)
        merged.pop("embeds", None)
        if merged.get("structured_outputs") is not None:
            checked_constraint(merged["structured_outputs"])
        params = msgspec.convert(merged, RehearsedParams, strict=False)
        if params.max_tokens is not None and params.min_tokens > params.max_tokens:
            raise ValueError(f"min_tokens must be at most max_tokens={params.max_tokens}, not {params.min_tokens}")
        for name in ("logprobs", "prompt_logprobs"):
            self._check_logprobs(name, getattr(params, name))
        return params

    def _check_logprobs(self, name: str, number: int | None) -> None:
        """-1 means the whole vocabulary: above any limit for a row, no limit for the engine."""
        if number is not None and self._max_logprobs != -1 and not 0 <= number <= self._max_logprobs:
            raise ValueError(f"{name} must be at most max_logprobs={self._max_logprobs}, not {number}")

    def _embedding(self, row: Row) -> RehearsedParams:
        check_embedding(row.get("sampling", {}))
        return RehearsedParams(max_tokens=1, embeds=True)

    def _limited(self, params: RehearsedParams, length: int) -> RehearsedParams:
        """Limit max_tokens to the remaining room, if the maximum length is known."""
        if not self._max_model_len and (params.max_tokens or 0) > _LONGEST:
            raise ValueError(f"max_tokens must be at most {_LONGEST} if max_model_len is not known")
        room = self._max_model_len - length if self._max_model_len else params.max_tokens or DEFAULT_MAX_TOKENS
        return msgspec.structs.replace(params, max_tokens=max(1, min(params.max_tokens or room, room)))

    def _cut(self, length: int, given: dict[str, Any]) -> int:
        cuts = cuts_of(given)
        tokens = cuts.get("truncate_prompt_tokens", length)
        # vLLM cuts to max_model_len then, which leaves no room for an answer.
        return min(length, (self._max_model_len or length) if tokens == -1 else tokens)


@cache
def _most_outputs() -> int:
    text = os.environ.get("VLLM_MAX_N_SEQUENCES", "")
    return int(text) if text.isdecimal() else _MAX_N


def prompt_tokens(row: Row) -> int:
    """About how many tokens a prompt has. Raises ValueError for an empty one; a chat's template always adds some."""
    if "messages" in row:
        return max(1, -(-sum(map(_characters, row["messages"])) // _CHARACTERS_A_TOKEN))
    prompt = row["prompt"]
    if not prompt:
        raise ValueError("the prompt is empty")
    if isinstance(prompt, str):
        return -(-len(prompt) // _CHARACTERS_A_TOKEN)
    if min(prompt) < 0:
        raise ValueError(f"token id {min(prompt)} is below 0")
    return len(prompt)


def _characters(message: Any) -> int:
    """The characters of a chat's message: of its text, or of its parts' texts."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(str(part.get("text", ""))) for part in content or () if isinstance(part, dict))
