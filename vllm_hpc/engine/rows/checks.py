"""Our own checks of a row, and its sampling in vLLM's terms, for vLLM's engine and a rehearsal's.

Nothing here imports vllm; vLLM's own checks come later.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from vllm_hpc.rows.row import Row
from vllm_hpc.spec.sampling_names import CUTS, TRANSLATED, advice_on

_POOLING_NAMES = ("dimensions", "use_activation")
_TASKS = ("generate", "embed")


def check_task(row: Row, pools: bool) -> str:
    """The row's task, generate or embed. Raises ValueError if this job's model does the other.

    ``pools``: whether the job runs with --engine runner=pooling.
    """
    able = "embed" if pools else "generate"
    asked = row.get("task")
    if "batch" in row:
        asked = "embed" if str(row["batch"].get("url")).endswith("/embeddings") else "generate"
    if asked in _TASKS and asked != able:
        how = "with --engine runner=pooling" if pools else "without --engine runner=pooling"
        raise ValueError(f"the row asks to {asked}, but a job {how} can only {able}")
    return able


def in_vllm_names(given: dict[str, Any]) -> dict[str, Any]:
    """Sampling in vLLM's names, from OpenAI's. A null counts as absent; for max_tokens it means no limit."""
    known = {name: value for name, value in given.items() if value is not None or name == "max_tokens"}
    translated = {name: value for name, value in known.items() if name not in TRANSLATED}
    if "max_completion_tokens" in known:
        translated["max_tokens"] = known["max_completion_tokens"]
    if isinstance(known.get("logprobs"), bool):  # in a chat; in a completion it is the number itself
        translated.pop("logprobs")
    if known.get("logprobs") is True or "top_logprobs" in known:
        translated["logprobs"] = known.get("top_logprobs", 0)
    if "response_format" in known:
        translated["structured_outputs"] = _constraint(known["response_format"], known.get("structured_outputs"))
    return {**translated, **{name: known[name] for name in CUTS if name in known}}


def cuts_of(given: dict[str, Any]) -> dict[str, Any]:
    """How to cut a prompt, as vLLM's renderer takes it. Raises ValueError."""
    cuts = {name: given[name] for name in CUTS if given.get(name) is not None}
    tokens = cuts.get("truncate_prompt_tokens", 1)
    if type(tokens) is not int or tokens == 0 or tokens < -1:
        raise ValueError(f"truncate_prompt_tokens must be a whole number, 1 or more, or -1, not {tokens!r}")
    if cuts.get("truncation_side", "left") not in ("left", "right"):
        raise ValueError(f"truncation_side must be left or right, not {cuts['truncation_side']!r}")
    return cuts


def check_names(given: dict[str, Any], known: Iterable[str]) -> None:
    """Refuse a parameter that vLLM does not have, and values that it takes and fails on later. Raises ValueError."""
    if unknown := sorted(given.keys() - known):
        advice = advice_on(unknown[0])
        raise ValueError(f"vLLM's SamplingParams has no {unknown[0]!r}{f': {advice}' if advice else ''}")
    if given.get("prompt_logprob_token_ids") is not None:  # a numpy array, which JSON does not have
        raise ValueError("prompt_logprob_token_ids cannot be given in a row: use logprob_token_ids")
    seed = given.get("seed")
    # torch's generators take no other seed, and end the engine; a greedy row has none.
    if isinstance(seed, int) and not -(2**63) <= seed < 2**64 and given.get("temperature") != 0:
        raise ValueError(f"seed must be from -2**63 to 2**64 - 1, not {seed}")
    if "" in (given.get("stop"), *(given["stop"] if isinstance(given.get("stop"), list) else ())):
        raise ValueError("stop cannot contain an empty string")


def check_embedding(given: dict[str, Any]) -> None:
    """Refuse parameters that make no sense for an embedding. Raises ValueError."""
    if unknown := sorted(given.keys() - {*_POOLING_NAMES, *CUTS}):
        raise ValueError(f"{unknown[0]!r} cannot be used for an embedding: use {', '.join(_POOLING_NAMES)}")
    dimensions = given.get("dimensions")
    if dimensions is not None and type(dimensions) is not int:
        raise ValueError(f"dimensions must be a whole number, not {dimensions!r}")
    if not isinstance(given.get("use_activation"), bool | None):
        raise TypeError(f"use_activation must be true or false, not {given['use_activation']!r}")


def adapter_of(row: Row, adapters: list[str]) -> str | None:
    """A row's adapter: from its field ``lora`` or, in an OpenAI batch, from its model; None for the base model.

    Raises ValueError for a name that the job does not have.
    """
    if "lora" in row:
        name = row["lora"]
        if name is not None and name not in adapters:
            ours = ", ".join(sorted(adapters)) or "none: add some with --lora"
            raise ValueError(f"no adapter {name!r}: this job has {ours}")
        return None if name is None else str(name)
    of_batch = row.get("batch", {}).get("model")
    if of_batch in adapters:
        return str(of_batch)
    return adapters[0] if len(adapters) == 1 else None


def _constraint(response_format: Any, other: Any) -> dict[str, Any] | None:
    """OpenAI's response_format as one of vLLM's constraints; None for plain text."""
    if other is not None:
        raise ValueError("response_format and structured_outputs are both given: keep one")
    kind = response_format.get("type") if isinstance(response_format, dict) else None
    if kind == "text":
        return None
    if kind == "json_object":
        return {"json_object": True}
    if kind == "json_schema":
        described = response_format.get("json_schema")
        if isinstance(described, dict) and isinstance(described.get("schema"), dict):
            return {"json": described["schema"]}
        raise ValueError("response_format of type json_schema needs json_schema.schema")
    if kind == "structural_tag":
        return {"structural_tag": json.dumps(response_format)}
    raise ValueError(f"response_format type {kind!r}: vLLM knows text, json_object, json_schema and structural_tag")
