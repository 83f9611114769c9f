"""Sampling parameters of a row: the model's defaults, then the job's, then the row's; in vLLM's and OpenAI's names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import msgspec
from vllm import LLMEngine, PoolingParams, SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from vllm_hpc.plan import DEFAULT_MAX_TOKENS
from vllm_hpc.records import JobRecord
from vllm_hpc.rows import Row

# How the prompt is cut: vLLM takes these beside the sampling parameters, and so do rows.
CUTS = ("truncate_prompt_tokens", "truncation_side")
# Names of a row's sampling that are not SamplingParams of vLLM, and become some.
_OPENAI_NAMES = ("response_format", "max_completion_tokens", "top_logprobs", *CUTS)
_NAMES = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")} - {"output_kind", "skip_clone"}
_CONSTRAINTS = {field.name for field in dataclasses.fields(StructuredOutputsParams) if field.init}
_POOLING_NAMES = ("dimensions", "use_activation")


class SamplingMaker:
    """Makes the SamplingParams of rows."""

    def __init__(self, engine: LLMEngine, record: JobRecord) -> None:
        # The model's generation_config first, as vLLM's own server does; then the job's, then the row's.
        of_model = engine.vllm_config.model_config.get_diff_sampling_param()
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **of_model, **_in_vllm_names(record.sampling)}
        self._job_seed = record.request.seed if record.request.seed_rows else None

    def __call__(self, row: Row) -> SamplingParams:
        """The parameters of a row. Raises what vLLM says of wrong ones."""
        given = {**self._defaults, **_in_vllm_names(row.get("sampling", {}))}
        for name in CUTS:
            given.pop(name, None)
        if self._job_seed is not None and given.get("seed") is None:
            given["seed"] = seed_of(self._job_seed, row.get("id"))
        structured = given.pop("structured_outputs", None)
        chosen = _convert(given)
        if structured is not None:
            chosen.structured_outputs = _structured(structured)
        chosen.output_kind = RequestOutputKind.FINAL_ONLY
        chosen.skip_clone = True  # this row's alone: the deep copy is a third of what vLLM takes to admit a row
        return chosen

    def cuts(self, row: Row) -> dict[str, Any]:
        """How the prompt of a row is to be cut, in the words of vLLM's renderer."""
        given = {**self._defaults, **row.get("sampling", {})}
        cuts = {name: given[name] for name in CUTS if given.get(name) is not None}
        tokens = cuts.get("truncate_prompt_tokens", 1)
        if type(tokens) is not int or tokens == 0 or tokens < -1:
            raise ValueError(f"truncate_prompt_tokens must be a whole number from 1, or -1, not {tokens!r}")
        return cuts


def pooling_params(row: Row, task: str) -> PoolingParams:
    """The PoolingParams of a row; of its sampling, only what makes sense for an embedding."""
    given = row.get("sampling", {})
    if unknown := sorted(given.keys() - {*_POOLING_NAMES, *CUTS}):
        raise ValueError(f"{unknown[0]!r} is no parameter of an embedding: it takes {', '.join(_POOLING_NAMES)}")
    dimensions = given.get("dimensions")
    if dimensions is not None and type(dimensions) is not int:
        raise ValueError(f"dimensions must be a whole number, not {dimensions!r}")
    return PoolingParams(task=task, dimensions=dimensions, use_activation=given.get("use_activation"))


def seed_of(job_seed: int, identity: object) -> int:
    """A row's own seed, 0 .. 2**32 - 1: of the job's seed and the row's id only, the same on every machine."""
    text = json.dumps([job_seed, identity]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


def _convert(given: dict[str, Any]) -> SamplingParams:
    if unknown := sorted(given.keys() - _NAMES):
        raise ValueError(f"vLLM's SamplingParams have no {unknown[0]!r}")
    if "" in (given.get("stop"), *(given["stop"] if isinstance(given.get("stop"), list) else ())):
        raise ValueError("stop cannot contain an empty string")
    # msgspec checks and converts what JSON gives: integer keys of logit_bias, nested structures, wrong types.
    return msgspec.convert(given, SamplingParams, strict=False)


def _in_vllm_names(given: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's names in vLLM's words. A null is as good as nothing, but for max_tokens: there it is 'no limit'."""
    known = {name: value for name, value in given.items() if value is not None or name == "max_tokens"}
    translated = {name: value for name, value in known.items() if name not in _OPENAI_NAMES}
    if "max_completion_tokens" in known:
        translated["max_tokens"] = known["max_completion_tokens"]
    if isinstance(known.get("logprobs"), bool):  # of a chat; of a completion it is the number itself
        translated.pop("logprobs")
    if known.get("logprobs") is True or "top_logprobs" in known:
        translated["logprobs"] = known.get("top_logprobs", 0)
    if "response_format" in known:
        translated["structured_outputs"] = _constraint(known["response_format"], known.get("structured_outputs"))
    return {**translated, **{name: known[name] for name in CUTS if name in known}}


def _constraint(response_format: Any, other: Any) -> dict[str, Any] | None:
    """OpenAI's response_format as a constraint of vLLM's; None for plain text."""
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


def _structured(given: Any) -> StructuredOutputsParams:
    """Built by vLLM's own class, which checks all but the names."""
    if not isinstance(given, dict):
        raise TypeError('structured_outputs must be an object, such as {"choice": ["yes", "no"]}')
    if unknown := sorted(given.keys() - _CONSTRAINTS):
        raise ValueError(f"vLLM's structured_outputs have no {unknown[0]!r}")
    return StructuredOutputsParams(**given)
