"""Whole numbers of rows, which tables and pandas write as 5.0: ids, token ids, and those in the sampling.

vLLM converts those of the sampling, too, but only on the ranks: the plan counts max_tokens and n before that, and what
cuts a prompt is never converted.
"""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows.row import Row

_WHOLE = frozenset(
    {"n", "top_k", "seed", "max_tokens", "min_tokens", "logprobs", "prompt_logprobs", "stream_interval"}
    | {"thinking_token_budget", "max_completion_tokens", "top_logprobs", "truncate_prompt_tokens", "dimensions"}
)
_LISTS = frozenset({"stop_token_ids", "allowed_token_ids", "logprob_token_ids"})


def with_whole_numbers(sampling: Row) -> Row:
    """The sampling with 5.0 as 5 where vLLM takes whole numbers only; any other value as it is."""
    for name, value in sampling.items():
        if type(value) is float and name in _WHOLE and value.is_integer():
            break
        if type(value) is list and name in _LISTS:
            break
    else:  # as in most of perhaps many millions of rows
        return sampling
    return {name: _read(name, value) for name, value in sampling.items()}


def whole_number(value: Any) -> Any:
    """5 for 5.0; any other value as it is. A float above 2**53 may have been rounded."""
    if isinstance(value, float) and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value


def _read(name: str, value: Any) -> Any:
    if name in _WHOLE:
        return whole_number(value)
    if name in _LISTS and isinstance(value, list):
        return [whole_number(one) for one in value]
    return value
