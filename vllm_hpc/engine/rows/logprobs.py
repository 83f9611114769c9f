"""vLLM's log probabilities in the shape of OpenAI's chats: a list of tokens with their alternatives."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

# vLLM's server writes this for a token that cannot occur, since JSON has no infinity.
IMPOSSIBLE = -9999.0

Token = dict[str, Any]


def top_tokens(token_ids: Iterable[int], positions: Iterable[Any], most: int | None) -> list[Token | None]:
    """One entry per token: ``token``, ``token_id``, ``logprob``, ``rank``, ``top_logprobs`` (the ``most`` likeliest).

    None for a token that was not predicted: the first of a prompt. ``most`` None or -1: all that vLLM gave.
    """
    return [
        _describe(token, there, most) if there else None for token, there in zip(token_ids, positions, strict=False)
    ]


def _describe(token_id: int, there: dict[int, Any], most: int | None) -> Token:
    every = [_one(other, value) for other, value in there.items()]
    if most is not None and most >= 0:  # vLLM adds the chosen token if it is not among the likeliest ones
        every = [one for one in every if one["rank"] is None or one["rank"] <= most]
    every.sort(key=lambda one: one["rank"] or math.inf)
    return {**_one(token_id, there[token_id]), "top_logprobs": every}


def _one(token_id: int, value: Any) -> Token:
    logprob = value.logprob
    return {
        "token": value.decoded_token,
        "token_id": token_id,
        "logprob": max(float(logprob), IMPOSSIBLE) if not math.isnan(logprob) else None,
        "rank": value.rank,
    }
