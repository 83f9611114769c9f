"""A row's sampling parameters: the model's defaults, then the job's, then the row's; in vLLM's and OpenAI's names."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import msgspec
from vllm import LLMEngine, PoolingParams, SamplingParams
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from vllm_hpc.engine.rows.checks import check_embedding, check_names, cuts_of, in_vllm_names
from vllm_hpc.engine.rows.constraint import checked_constraint
from vllm_hpc.engine.vllm_patches import is_on
from vllm_hpc.jobfolder.records import JobRecord
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.sampling import DEFAULT_MAX_TOKENS, NO_SEED
from vllm_hpc.spec.sampling_names import CUTS

_NAMES = {name for name in SamplingParams.__struct_fields__ if not name.startswith("_")} - {"output_kind", "skip_clone"}

_CONSTRAINTS = {field.name for field in dataclasses.fields(StructuredOutputsParams) if field.init}


class SamplingMaker:
    """Makes the SamplingParams of rows."""

    def __init__(self, engine: LLMEngine, record: JobRecord) -> None:
        # The model's generation_config first, as vLLM's own server does; then the job's, then the row's.
        of_model = engine.vllm_config.model_config.get_diff_sampling_param()
        self._defaults = {"max_tokens": DEFAULT_MAX_TOKENS, **of_model, **in_vllm_names(record.sampling)}
        request = record.request
        self._job_seed = request.seed if request.seed_rows or request.reproducible else None
        self._skips_clone = is_on("skip-clone")

    def __call__(self, row: Row) -> SamplingParams:
        """The parameters of a row. Raises whatever vLLM says is wrong with them."""
        given = {**self._defaults, **in_vllm_names(row.get("sampling", {}))}
        for name in CUTS:
            given.pop(name, None)
        if self._job_seed is not None and given.get("seed") in NO_SEED:
            given["seed"] = seed_of(self._job_seed, row.get("id"))
        structured = given.pop("structured_outputs", None)
        chosen = _convert(given)
        if structured is not None:
            chosen.structured_outputs = StructuredOutputsParams(**checked_constraint(structured, _CONSTRAINTS))
        chosen.output_kind = RequestOutputKind.FINAL_ONLY
        if self._skips_clone:  # only this row uses them: the deep copy is a third of the time to admit a row
            chosen.skip_clone = True
        return chosen

    def cuts(self, row: Row) -> dict[str, Any]:
        """How to cut the prompt of a row, as vLLM's renderer takes it."""
        return cuts_of({**self._defaults, **row.get("sampling", {})})


def pooling_params(row: Row, task: str) -> PoolingParams:
    """The PoolingParams of a row, from the parameters that make sense for an embedding."""
    given = row.get("sampling", {})
    check_embedding(given)
    return PoolingParams(task=task, dimensions=given.get("dimensions"), use_activation=given.get("use_activation"))


def seed_of(job_seed: int, identity: object) -> int:
    """A row's own seed, 0 .. 2**32 - 1, from the job's seed and the row's id alone: the same on every machine."""
    text = json.dumps([job_seed, identity]).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


def _convert(given: dict[str, Any]) -> SamplingParams:
    check_names(given, _NAMES)
    # msgspec checks and converts what JSON gives: integer keys of logit_bias, nested structures, wrong types.
    return msgspec.convert(given, SamplingParams, strict=False)
