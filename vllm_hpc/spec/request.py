"""Request: what the user asked for, frozen and validated once, at the edge.

It is built from options and job.toml (``spec/job_definition.py``); the profile (``spec/resolved_job.py``) and the
planner fill in the rest.
"""

from __future__ import annotations

import difflib
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec

from vllm_hpc.spec.directives import check_owned
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.messages import explain_mismatch
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS
from vllm_hpc.spec.rehearsal import Rehearsal, read_rehearsal
from vllm_hpc.spec.values import CHECKS, parse_walltime

# vLLM's longest contexts are a few million tokens.
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]

NOT_REHEARSED = "--rehearse-set is for rehearsals only: add --rehearse, or leave it out"
_LEAD_S = 120
# The shortest time in which ranks can exit; the longest that Slurm accepts (man sbatch, --signal).
_LEAST_LEAD_S, _LONGEST_LEAD_S = 30, 65_535
# vLLM's arguments that the layout or MODEL already decides: setting one with --engine is a contradiction.
PLANNED_ENGINE_ARGUMENTS = {
    "model": "MODEL",
    "tensor_parallel_size": "--tp",
    "pipeline_parallel_size": "--pp",
    "data_parallel_size": "--dp",
    "distributed_executor_backend": "--launcher native for mp; otherwise it is external_launcher",
    "seed": "--seed",
}


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked: the options of ``vllm-hpc submit``, with None for those not given.

    Paths are kept as given, relative to the working directory. Raises RequestError for a value that is invalid by
    itself; the planner checks whether the numbers match.
    """

    model: str
    input: str | None = None
    nodes: Count | None = None
    gpus_per_node: Count | None = None
    tp: Count | None = None
    pp: Count | None = None
    dp: Count | None = None
    scheduler: str = "auto"
    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: str | None = None
    mem: str | None = None
    cpus_per_rank: Count | None = None
    name: str | None = None
    job_dir: str = "runs"
    max_tokens: Tokens | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    seed_rows: bool = False
    lora: list[str] = []
    sampling: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    env: dict[str, str] = {}
    directive: list[str] = []
    gpu: str | None = None
    launcher: str | None = None
    array: bool = False
    template: str | None = None
    template_dir: str | None = None
    max_requeues: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 10
    drain_lead: Annotated[int, msgspec.Meta(ge=_LEAST_LEAD_S, le=_LONGEST_LEAD_S)] | None = None
    rehearse: bool = False
    rehearse_set: Rehearsal = Rehearsal()

    @property
    def lead_s(self) -> int:
        """Seconds before the end of the walltime when a drain begins; by default 120, at most a fifth of it."""
        limit = parse_walltime(self.time) if self.time else float("inf")
        return self.drain_lead or int(min(_LEAD_S, limit / 5))

    def __post_init__(self) -> None:
        for key, check in CHECKS.items():
            value = getattr(self, key, None)
            if value is not None:
                check(value, f"--{key.replace('_', '-')}")
        if self.scheduler != "auto":  # otherwise checked once the scheduler is known
            check_owned(self.directive, self.scheduler)
        _check_sampling(self)
        _check_lead(self)
        if self.rehearse_set != Rehearsal() and not self.rehearse:
            raise RequestError(NOT_REHEARSED)
        for key in self.engine:
            if key in PLANNED_ENGINE_ARGUMENTS:
                raise RequestError(f"--engine {key} cannot be set here: use {PLANNED_ENGINE_ARGUMENTS[key]}")


def check_template(template: str, template_dir: str | None, scheduler: str) -> None:
    """Refuse a template for another scheduler, and the files of shared macros. Raises RequestError.

    Packaged templates begin with their scheduler's name; a site's own may have any name.
    """
    name = template.removeprefix("packaged/")
    if template == name and template_dir is not None and (Path(template_dir) / template).is_file():
        return
    if name.startswith("_"):
        raise RequestError(f"--template {template!r} has shared macros, not a script: leave it out")
    other = name.split(".")[0]
    if other != scheduler and other in SCHEDULERS.built_in:
        raise RequestError(
            f"--template {template!r} is for --scheduler {other}, but this job is for {scheduler}: "
            f"leave it out, or use --scheduler {other}"
        )


def _check_lead(request: Request) -> None:
    """Refuse a drain lead that uses up the walltime: the job would drain as soon as it starts."""
    if request.drain_lead is None or request.time is None:
        return
    limit = parse_walltime(request.time)
    if request.drain_lead >= limit:
        nearest = f"use {limit - 1} or less" if limit > _LEAST_LEAD_S else "leave it out"
        raise RequestError(
            f"--drain-lead {request.drain_lead} leaves nothing of --time {request.time} ({limit} s): {nearest}"
        )


# name -> lower and upper bound in vLLM, whether the lower bound itself is allowed, and the words of the error
_LIMITS: dict[str, tuple[float, float, bool, str]] = {
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


def _check_sampling(request: Request) -> None:
    """Apply the same limits to a name whether it has its own option or comes through --sampling."""
    if request.seed_rows and request.sampling.get("seed") is not None:
        raise RequestError(
            "--seed-rows gives every row its own seed, --sampling seed gives all rows the same: keep one"
        )
    for key, (least, most, with_least, words) in _LIMITS.items():
        option = f"--{key.replace('_', '-')}"
        if key != "seed" and key in request.sampling and getattr(request, key, None) is not None:
            raise RequestError(f"{option} and --sampling {key} are both given: keep one")
        for origin, value in ((option, getattr(request, key, None)), (f"--sampling {key}", request.sampling.get(key))):
            if value is None:  # not given; or null, which means "no limit" in vLLM
                continue
            is_number = isinstance(value, int if key in _WHOLE else int | float) and not isinstance(value, bool)
            if not is_number or not least <= value <= most or (value == least and not with_least):
                raise RequestError(f"{origin} {value!r} {words}")


def convert_options(options: dict[str, Any]) -> Request:
    """A Request from plain options with underscores. Raises RequestError, which names the option."""
    if "rehearse_set" in options:
        options = {**options, "rehearse_set": read_rehearsal(options["rehearse_set"])}
    for key, registry in (("scheduler", SCHEDULERS), ("launcher", LAUNCHERS)):
        if isinstance(name := options.get(key), str) and not registry.has(name):
            raise RequestError(f"--{key} {registry.explain(name)}")
    try:
        return msgspec.convert(options, Request)
    except msgspec.ValidationError as error:
        raise RequestError(_option_message(error)) from None


def _option_message(error: msgspec.ValidationError) -> str:
    """msgspec's error in words about the option."""
    mismatch = explain_mismatch(error, Request)
    if mismatch:
        return f"--{mismatch[0].replace('_', '-')} {mismatch[1]}"
    field = re.search(r"unknown field `(\w+)`", str(error))
    if field:
        near = difflib.get_close_matches(field[1], Request.__struct_fields__, n=1)
        return f"no such option: {field[1]!r}" + (f": did you mean {near[0]!r}?" if near else "")
    return str(error).replace("`", "")
