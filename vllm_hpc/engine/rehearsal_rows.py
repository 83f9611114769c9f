"""Rows made ready for a rehearsal: our own checks, limits of sampling, and a guess of the prompt's length."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from vllm_hpc.engine.interface import Ready
from vllm_hpc.engine.row_checks import (
    CUTS,
    adapter_of,
    check_embedding,
    check_names,
    check_task,
    cuts_of,
    in_vllm_names,
)
from vllm_hpc.plan import DEFAULT_MAX_TOKENS, whole
from vllm_hpc.records import JobRecord
from vllm_hpc.rows import Row
from vllm_hpc.vllm_arguments import sampling_names

# What a tokenizer makes of English text.
_CHARACTERS_A_TOKEN = 4

_Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
_OrAll = Annotated[int, msgspec.Meta(ge=-1, le=2**31)]
_Positive = Annotated[float, msgspec.Meta(gt=0)]
_Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]


class RehearsedParams(msgspec.Struct, frozen=True, kw_only=True):
    """A row's sampling as far as a rehearsal acts on it, and the limits of the rest.

    They are those of vllm/sampling_params.py, _verify_args. Values are converted as vLLM does it: "8" is 8.
    """

    n: _Count = 1
    max_tokens: _Count | None = None
    min_tokens: _Whole = 0
    temperature: Annotated[float, msgspec.Meta(ge=0)] = 1.0
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
    embeds: bool = False


class RehearsalRows:
    """Makes rows ready. Raises at once where the job's own sampling is wrong, and for a row what is wrong with it."""

    def __init__(self, record: JobRecord) -> None:
        engine = record.plan.engine
        self._pools = engine.get("runner") == "pooling"
        self._adapters = [adapter.name for adapter in record.adapters]
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **in_vllm_names(record.sampling)}
        positions = record.plan.model.max_positions if record.plan.model else 0
        self._max_model_len = whole(engine.get("max_model_len"), positions)
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
                f"and max_model_len is {self._max_model_len}"
            )
        return Ready(row, length, self._limited(params, length), adapter, created=self._created)

    def _params(self, given: dict[str, Any]) -> RehearsedParams:
        merged = {**self._defaults, **in_vllm_names(given)}
        for name in CUTS:
            merged.pop(name, None)
        check_names(merged, sampling_names() or merged)
        merged.pop("embeds", None)
        params = msgspec.convert(merged, RehearsedParams, strict=False)
        if params.max_tokens is not None and params.min_tokens > params.max_tokens:
            raise ValueError(f"min_tokens must be at most max_tokens={params.max_tokens}, not {params.min_tokens}")
        return params

    def _embedding(self, row: Row) -> RehearsedParams:
        check_embedding(row.get("sampling", {}))
        return RehearsedParams(max_tokens=1, embeds=True)

    def _limited(self, params: RehearsedParams, length: int) -> RehearsedParams:
        """The tokens that there is room for, where the length of sequences is known."""
        room = self._max_model_len - length if self._max_model_len else params.max_tokens or DEFAULT_MAX_TOKENS
        return msgspec.structs.replace(params, max_tokens=max(1, min(params.max_tokens or room, room)))

    def _cut(self, length: int, given: dict[str, Any]) -> int:
        tokens = cuts_of(given).get("truncate_prompt_tokens")
        if tokens is None:
            return length
        return min(length, self._max_model_len - 1 if tokens == -1 and self._max_model_len else abs(tokens))


def prompt_tokens(row: Row) -> int:
    """About how many tokens a prompt has. Raises ValueError for an empty one."""
    prompt = row.get("prompt")
    if isinstance(prompt, list):
        length = len(prompt)
    else:
        characters = len(prompt) if isinstance(prompt, str) else sum(map(_characters, row.get("messages", ())))
        length = -(-characters // _CHARACTERS_A_TOKEN)
    if not length:
        raise ValueError("the prompt is empty")
    return length


def _characters(message: Any) -> int:
    """Of a chat's message: its text, or its parts' texts."""
    content = message.get("content")
    if isinstance(content, str):
        return len(content)
    return sum(len(str(part.get("text", ""))) for part in content or () if isinstance(part, dict))
