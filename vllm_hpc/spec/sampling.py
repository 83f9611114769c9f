"""Sampling: the default of max_tokens, and the limits of vLLM's SamplingParams."""

from __future__ import annotations

import sys
from typing import Any

from vllm_hpc.spec.errors import RequestError

# Default output tokens per row: vLLM's own default of 16 is a surprise in a batch.
DEFAULT_MAX_TOKENS = 256
# A row's seeds that vLLM takes for none (sampling_params.py: -1 becomes None).
NO_SEED = (None, -1)
# name -> lower and upper bound in vLLM, whether the lower bound itself is allowed, and the words of the error
LIMITS: dict[str, tuple[float, float, bool, str]] = {
    "max_tokens": (1, 1_000_000_000, True, "must be a whole number from 1 to 1000000000"),
    "temperature": (0, sys.float_info.max, True, "must be a number, 0 or more"),
    "top_p": (0, 1, False, "must be a number above 0 and at most 1"),
    "n": (1, 2**31, True, "must be a whole number, 1 or more"),
    "top_k": (-1, 2**31, True, "must be a whole number, -1 or more"),
    "min_p": (0, 1, True, "must be a number from 0 to 1"),
    "presence_penalty": (-2, 2, True, "must be a number from -2 to 2"),
    "frequency_penalty": (-2, 2, True, "must be a number from -2 to 2"),
    "repetition_penalty": (0, sys.float_info.max, False, "must be a number above 0"),
    "min_tokens": (0, 1_000_000_000, True, "must be a whole number, 0 or more"),
    "logprobs": (-1, 2**31, True, "must be a whole number, -1 or more"),
    "prompt_logprobs": (-1, 2**31, True, "must be a whole number, -1 or more"),
    "seed": (0, 2**32 - 1, True, f"must be a whole number from 0 to {2**32 - 1}"),
}
_WHOLE = ("max_tokens", "seed", "n", "top_k", "min_tokens", "logprobs", "prompt_logprobs")


def check_sampling(options: dict[str, Any], sampling: dict[str, Any], seed_rows: bool) -> None:
    """Apply the same limits to a name with an option of its own and through --sampling. Raises RequestError."""
    if seed_rows and sampling.get("seed") is not None:
        raise RequestError(
            "--seed-rows gives every row its own seed, --sampling seed gives all rows the same: keep one"
        )
    for key, (least, most, with_least, words) in LIMITS.items():
        option = f"--{key.replace('_', '-')}"
        if key != "seed" and key in sampling and options.get(key) is not None:
            raise RequestError(f"{option} and --sampling {key} are both given: keep one")
        for origin, value in ((option, options.get(key)), (f"--sampling {key}", sampling.get(key))):
            if value is None:  # not given; or null, which means "no limit" in vLLM
                continue
            is_number = isinstance(value, int if key in _WHOLE else int | float) and not isinstance(value, bool)
            if not is_number or not least <= value <= most or (value == least and not with_least):
                raise RequestError(f"{origin} {value!r} {words}")
