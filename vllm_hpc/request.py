"""Request: what a person asked for, frozen and validated once, at the edge.

An option given on the command line (or from Python) wins over job.toml; what neither names is left to the profile
and the planner (``vllm_hpc.submission``).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from vllm_hpc.errors import RequestError

Count = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
SchedulerName = Literal["auto", "slurm", "local"]

JOB_DEFINITION = "job.toml"
# vLLM's arguments that the layout, or MODEL, already decides: an --engine that names one is a contradiction.
PLANNED_ENGINE_ARGUMENTS = {
    "model": "MODEL",
    "tensor_parallel_size": "--tp",
    "pipeline_parallel_size": "--pp",
    "data_parallel_size": "--dp",
    "distributed_executor_backend": "nothing: it is always external_launcher",
    "seed": "--seed",
}
# Slurm's forms of a time limit: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS (man sbatch, --time).
_WALLTIME = re.compile(r"(?:(?P<days>\d{1,4})-)?(?P<clock>\d{1,6}(?::\d{1,2}){0,2})")
_MEMORY = re.compile(r"\d{1,9}[KMGT]?B?", re.IGNORECASE)
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|PRIVATE_?KEY|CREDENTIAL", re.IGNORECASE)
# submitit replaces these in any path it is given (submitit.core.utils.JobPaths._format_id).
_SUBMITIT_TAGS = ("%j", "%t", "%A", "%a")


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
    max_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int = 0
    sampling: dict[str, Any] = {}
    engine: dict[str, Any] = {}
    env: dict[str, str] = {}
    directive: list[str] = []
    template: str | None = None
    template_dir: str | None = None

    def __post_init__(self) -> None:
        for text in (self.partition, self.account, self.qos, *self.directive):
            _check_one_line(text)
        if self.name is not None:
            check_name(self.name)
        check_path(self.job_dir, "--job-dir")
        check_env(self.env)
        _check_walltime(self.time)
        _check_memory(self.mem)
        _check_sampling(self)
        for key in self.engine:
            if key in PLANNED_ENGINE_ARGUMENTS:
                raise RequestError(f"--engine {key} is not yours to set here: use {PLANNED_ENGINE_ARGUMENTS[key]}")


def make_request(options: dict[str, Any]) -> Request:
    """Build a Request out of plain options, with errors that name the option.

    ``options`` has the long options with underscores as keys; None means not given. Where ``model`` is a folder
    with a job.toml, that is read first and the options win over it. Raises RequestError.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if "model" not in given:
        raise RequestError("MODEL is missing: name a model folder, a Hub id, 'demo', or a folder with a job.toml")
    definition = Path(str(given["model"])).expanduser() / JOB_DEFINITION
    if definition.is_file():
        del given["model"]
        given = _merge(read_job_definition(definition), given)
        if "model" not in given:
            raise RequestError(f"{definition}: 'model' is missing")
    try:
        return msgspec.convert(given, Request)
    except msgspec.ValidationError as error:
        raise RequestError(_option_message(str(error))) from None


def read_job_definition(path: Path) -> dict[str, Any]:
    """Read a job.toml into options; paths in it are relative to its folder. Raises RequestError."""
    try:
        options = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{path}: not valid TOML: {error}") from None
    unknown = sorted(set(options) - set(Request.__struct_fields__))
    if unknown:
        raise RequestError(
            f"{path}: unknown key '{unknown[0]}': job.toml takes submit's long options, with underscores"
        )
    for key in ("input", "template_dir"):
        if isinstance(options.get(key), str):
            options[key] = str(path.parent / Path(options[key]).expanduser())
    model = options.get("model")
    if isinstance(model, str) and model.startswith((".", "~")):
        options["model"] = str(path.parent / Path(model).expanduser())
    return options


def parse_walltime(text: str) -> int:
    """Seconds in a walltime of Slurm's forms: minutes, MM:SS, HH:MM:SS, D-HH[:MM[:SS]]. Raises RequestError."""
    match = _WALLTIME.fullmatch(text)
    if not match:
        raise RequestError(f"--time {text!r} is no walltime: write minutes, HH:MM:SS or D-HH:MM:SS")
    fields = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None:
        hours, minutes, seconds = (*fields, 0, 0)[:3]
    elif len(fields) == 3:
        hours, minutes, seconds = fields
    else:
        hours, minutes, seconds = (0, *fields, 0)[:3]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise RequestError(f"--time {text!r} is zero: give the job some time")
    return total


def check_name(name: str) -> None:
    """Refuse a job name that cannot be a folder's name or would mislead a scheduler. Raises RequestError."""
    if not name.strip() or name in (".", "..") or name[0] in ".-" or "/" in name:
        raise RequestError(f"--name {name!r} cannot be a folder's name: leave out '/', and a leading '.' or '-'")
    if len(name.encode("utf-8", "surrogatepass")) > 200:
        raise RequestError("--name is too long: at most 200 bytes")
    check_path(name, "--name")


def check_path(path: str, option: str) -> None:
    """Refuse a path that a script or submitit could not carry. Raises RequestError."""
    if not path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise RequestError(f"{option} {path!r} is empty or holds a control character: choose another name")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{option} {path!r} is not valid UTF-8: choose another name") from None
    for tag in _SUBMITIT_TAGS:
        if tag in path:
            raise RequestError(
                f"{option} {path!r} holds {tag!r}, which submitit and Slurm replace: choose another name"
            )


def check_env(env: dict[str, str], origin: str = "--env") -> None:
    """Refuse variables that cannot be exported, or that look like a secret. Raises RequestError."""
    for key, value in env.items():
        if not _ENV_NAME.fullmatch(key):
            raise RequestError(f"{origin} {key!r} is no name for an environment variable")
        if _SECRET_NAME.search(key):
            raise RequestError(
                f"{origin} {key} looks like a secret, and it would be written into the script: export it in your "
                "shell instead (schedulers pass the environment on)"
            )
        _check_one_line(value)


def _check_walltime(time: str | None) -> None:
    if time is not None:
        parse_walltime(time)


def _check_memory(mem: str | None) -> None:
    if mem is not None and not _MEMORY.fullmatch(mem):
        raise RequestError(f"--mem {mem!r} is no amount of memory: write 64G, 64000M or 0 for all of the node's")


def _check_one_line(text: str | None) -> None:
    if text is not None and (not text.isprintable() or text != text.strip()):
        raise RequestError(f"{text!r} holds a newline, another control character, or space at an end: mend it")


def _check_sampling(request: Request) -> None:
    for key in ("max_tokens", "temperature", "top_p"):
        if key in request.sampling and getattr(request, key) is not None:
            raise RequestError(f"--{key.replace('_', '-')} and --sampling {key} are both given: keep one")
    if request.temperature is not None and not 0 <= request.temperature < float("inf"):
        raise RequestError(f"--temperature {request.temperature} must be 0 or more")
    if request.top_p is not None and not 0 < request.top_p <= 1:
        raise RequestError(f"--top-p {request.top_p} must be above 0 and at most 1")
    if not 0 <= request.seed < 2**32:
        raise RequestError(f"--seed {request.seed} must be between 0 and {2**32 - 1}")


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Options of ``above`` win; tables (sampling, engine, env) win key by key."""
    merged = {**below, **above}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = {**below[key], **value}
    return merged


def _option_message(message: str) -> str:
    """Turn msgspec's 'Expected `int` >= 1 - at `$.tp`' into words about the option."""
    match = re.fullmatch(r"(?P<what>.*) - at `\$\.?(?P<where>[^`]*)`", message)
    if match:
        option = match["where"].split("[")[0].split(".")[0].replace("_", "-")
        return f"--{option}: {match['what'].replace('`', '')}"
    field = re.search(r"unknown field `(\w+)`", message)
    if field:
        return f"no such option: {field[1]!r}"
    return message.replace("`", "")
