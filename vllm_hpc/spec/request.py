"""Request: what a person asked for, frozen and validated once, at the edge.

An option given on the command line (or from Python) wins over job.toml; what neither names is left to the profile
and the planner (``vllm_hpc.jobs.submit``).
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import msgspec

from vllm_hpc.spec.directives import check_owned
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.messages import explain_mismatch
from vllm_hpc.spec.rehearsal import NO_MODEL, Rehearsal, check_settings, in_earnest, read_rehearsal, with_rehearsal
from vllm_hpc.spec.values import CHECKS, as_path, parse_walltime

# vLLM's longest contexts are some million tokens.
Tokens = Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
LauncherName = Literal["torchrun", "srun", "pbsdsh", "pbs_tmrsh", "mpiexec", "openmpi", "native"]
SchedulerName = Literal["auto", "slurm", "pbs", "local"]

JOB_DEFINITION = "job.toml"
NOT_REHEARSED = "--rehearse-set is for rehearsals only: add --rehearse, or leave it out"
_LEAD_S = 120
# What Slurm takes at most (man sbatch, --signal); the least in which ranks can leave.
_LEAST_LEAD_S, _LONGEST_LEAD_S = 30, 65_535
# vLLM's arguments that the layout, or MODEL, already decides: an --engine that names one is a contradiction.
PLANNED_ENGINE_ARGUMENTS = {
    "model": "MODEL",
    "tensor_parallel_size": "--tp",
    "pipeline_parallel_size": "--pp",
    "data_parallel_size": "--dp",
    "distributed_executor_backend": "--launcher native for mp; else it is external_launcher",
    "seed": "--seed",
}


class Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was asked: the options of ``vllm-hpc submit``, with None for all that was left out.

    Paths are as they were given, relative to the working directory. Raises RequestError for a value that cannot
    be meant; whether the numbers go together is the planner's to say.
    """

    model: str
    input: str | None = None
    nodes: Count | None = None
    gpus_per_node: Count | None = None
    tp: Count | None = None
    pp: Count | None = None
    dp: Count | None = None
    scheduler: SchedulerName = "auto"
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
    launcher: LauncherName | None = None
    array: bool = False
    template: str | None = None
    template_dir: str | None = None
    max_requeues: Annotated[int, msgspec.Meta(ge=0, le=10_000)] = 10
    drain_lead: Annotated[int, msgspec.Meta(ge=_LEAST_LEAD_S, le=_LONGEST_LEAD_S)] | None = None
    rehearse: bool = False
    rehearse_set: Rehearsal = Rehearsal()

    @property
    def lead_s(self) -> int:
        """Seconds before the walltime's end at which a drain begins: what was asked, else 120, or a fifth of it."""
        limit = parse_walltime(self.time) if self.time else float("inf")
        return self.drain_lead or int(min(_LEAD_S, limit / 5))

    def __post_init__(self) -> None:
        for key, check in CHECKS.items():
            value = getattr(self, key, None)
            if value is not None:
                check(value, f"--{key.replace('_', '-')}")
        if self.scheduler != "auto":  # whose options they are, the planner finds out
            check_owned(self.directive, self.scheduler)
        _check_sampling(self)
        _check_lead(self)
        if self.rehearse_set != Rehearsal() and not self.rehearse:
            raise RequestError(NOT_REHEARSED)
        for key in self.engine:
            if key in PLANNED_ENGINE_ARGUMENTS:
                raise RequestError(f"--engine {key} is not yours to set here: use {PLANNED_ENGINE_ARGUMENTS[key]}")


def make_request(options: dict[str, Any]) -> Request:
    """Build a Request out of plain options, with errors that name the option.

    ``options`` has the long options with underscores as keys; None means not given. Where ``model`` is a folder
    with a job.toml, that is read first and the options win over it. Raises RequestError.
    """
    given = {key: os.fspath(v) if isinstance(v, os.PathLike) else v for key, v in options.items() if v is not None}
    definition = find_definition(str(given["model"])) if "model" in given else None
    if definition is not None:
        del given["model"]
        asked = with_rehearsal(given)
        merged = _merge(read_job_definition(definition, bool(asked.get("rehearse"))), asked)
        return _convert(in_earnest(merged) if asked.get("rehearse") is False else merged)
    missing = "MODEL is missing: name a model folder, a Hub id, 'demo', or a folder with a job.toml"
    return _convert(_with_model(with_rehearsal(given), missing))


def find_definition(model: str) -> Path | None:
    """The job.toml in the folder that MODEL names, None where it names none."""
    try:
        definition = Path(model).expanduser() / JOB_DEFINITION
        return definition if definition.is_file() else None
    except (OSError, RuntimeError, ValueError):  # a name that no file system takes, a home of nobody, a NUL
        return None


def read_toml(path: Path) -> dict[str, Any]:
    """The content of a TOML file. Raises ValueError, which names the file and what is wrong with it, and OSError."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError, UnicodeDecodeError, an integer of 5000 digits
        raise ValueError(f"{path}: not valid TOML: {error}") from None


def read_job_definition(path: Path, rehearses: bool = False) -> dict[str, Any]:
    """Read a job.toml into options; paths in it are relative to its folder. Raises RequestError.

    A rehearsal, which it or the caller (``rehearses``) asks for, needs no model.
    """
    try:
        options = read_toml(path)
    except ValueError as error:
        raise RequestError(str(error)) from None
    unknown = sorted(set(options) - set(Request.__struct_fields__))
    if unknown:
        raise RequestError(
            f"{path}: unknown key '{unknown[0]}': job.toml takes submit's long options, with underscores"
        )
    try:
        options = _with_model(with_rehearsal(options), "'model' is missing", rehearses)
        # The caller may add what a fault needs: whether the settings go together is judged when they are merged.
        check_settings(options.get("rehearse_set", {}))
        _convert({key: value for key, value in options.items() if key != "rehearse_set"})
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    for key in ("input", "template_dir"):
        if isinstance(options.get(key), str):
            options[key] = str(path.parent / Path(options[key]).expanduser())
    if "lora" in options:
        options["lora"] = [_beside(path.parent, given) for given in options["lora"]]
    beside = path.parent / as_path(options["model"], "model")
    if options["model"] != NO_MODEL and (beside.exists() or options["model"].startswith((".", "~"))):
        options["model"] = str(beside)
    return options


def _with_model(options: dict[str, Any], missing: str, rehearses: bool = False) -> dict[str, Any]:
    """The options with a model, which a rehearsal may leave out. Raises RequestError (``missing``)."""
    if rehearses or options.get("rehearse", False) is not False:
        return {"model": NO_MODEL, **options}
    if "model" not in options:
        raise RequestError(NOT_REHEARSED if options.get("rehearse_set") else missing)
    return options


def _beside(folder: Path, given: str) -> str:
    """``NAME=PATH`` with the path made relative to a folder; a bare PATH likewise."""
    name, sign, path = given.partition("=")
    if not sign or "/" in name:
        return str(folder / Path(given).expanduser())
    return f"{name}={folder / Path(path).expanduser()}"


def check_template(template: str, template_dir: str | None, scheduler: str) -> None:
    """A template that makes a script for that scheduler: none of another one's, and not the shared macros.

    The packaged ones begin with their scheduler's name; a site's own may be called as it likes. Raises RequestError.
    """
    name = template.removeprefix("packaged/")
    if template == name and template_dir is not None and (Path(template_dir) / template).is_file():
        return
    if name.startswith("_"):
        raise RequestError(f"--template {template!r} holds what templates share, and makes no script: leave it out")
    other = name.split(".")[0]
    if other != scheduler and other in get_args(SchedulerName):
        raise RequestError(
            f"--template {template!r} is for --scheduler {other}, and this job is for {scheduler}: "
            f"leave it out, or use --scheduler {other}"
        )


def _check_lead(request: Request) -> None:
    """A drain that leaves some of the walltime to work in: a signal that is due at the start drains an empty engine."""
    if request.drain_lead is None or request.time is None:
        return
    limit = parse_walltime(request.time)
    if request.drain_lead >= limit:
        nearest = f"use {limit - 1} or less" if limit > _LEAST_LEAD_S else "leave it out"
        raise RequestError(
            f"--drain-lead {request.drain_lead} leaves nothing of --time {request.time} ({limit} s): {nearest}"
        )


# name -> least and most that vLLM takes, whether the least is one of them, and what the refusal says
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
    """The same limits for a name, whether it has an option of its own or comes through --sampling."""
    if request.seed_rows and request.sampling.get("seed") is not None:
        raise RequestError("--seed-rows gives every row a seed of its own, and --sampling seed one to all: keep one")
    for key, (least, most, with_least, words) in _LIMITS.items():
        option = f"--{key.replace('_', '-')}"
        if key != "seed" and key in request.sampling and getattr(request, key, None) is not None:
            raise RequestError(f"{option} and --sampling {key} are both given: keep one")
        for origin, value in ((option, getattr(request, key, None)), (f"--sampling {key}", request.sampling.get(key))):
            if value is None:  # not given; or null, which is vLLM's own word for no limit
                continue
            is_number = isinstance(value, int if key in _WHOLE else int | float) and not isinstance(value, bool)
            if not is_number or not least <= value <= most or (value == least and not with_least):
                raise RequestError(f"{origin} {value!r} {words}")


def _convert(options: dict[str, Any]) -> Request:
    if "rehearse_set" in options:
        options = {**options, "rehearse_set": read_rehearsal(options["rehearse_set"])}
    try:
        return msgspec.convert(options, Request)
    except msgspec.ValidationError as error:
        raise RequestError(_option_message(error)) from None


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Options of ``above`` win; tables (sampling, engine, env, rehearse) win key by key."""
    merged = {**below, **above}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = {**below[key], **value}
    return merged


def _option_message(error: msgspec.ValidationError) -> str:
    """What msgspec refused, in words about the option."""
    mismatch = explain_mismatch(error, Request)
    if mismatch:
        return f"--{mismatch[0].replace('_', '-')} {mismatch[1]}"
    field = re.search(r"unknown field `(\w+)`", str(error))
    if field:
        near = difflib.get_close_matches(field[1], Request.__struct_fields__, n=1)
        return f"no such option: {field[1]!r}" + (f": did you mean {near[0]!r}?" if near else "")
    return str(error).replace("`", "")
