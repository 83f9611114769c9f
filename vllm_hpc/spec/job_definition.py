"""Build a Request from options and from the job.toml in the folder MODEL, if it has one; keep each value's origin.

An option given on the command line (or from Python) overrides job.toml. One that another user wrote, or others can
write to, is read, but for what may act as the user or copies what is theirs (``spec/foreign_options.py``).
"""

from __future__ import annotations

import glob
import os
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.chat_template import is_template_text
from vllm_hpc.spec.errors import ModelError, RequestError
from vllm_hpc.spec.foreign_options import acting, check_is_inside, option_of
from vllm_hpc.spec.job_dir import DEFAULT_PROFILE as DEFAULT_PROFILE
from vllm_hpc.spec.job_dir import profile_in_use as profile_in_use
from vllm_hpc.spec.no_secrets import check_comments
from vllm_hpc.spec.other_names import instead_of
from vllm_hpc.spec.passed_variables import merge_variables, with_passed
from vllm_hpc.spec.program import FoundProgram
from vllm_hpc.spec.program_options import program_beside
from vllm_hpc.spec.prompt_options import check_has_rows, with_columns, without_overridden
from vllm_hpc.spec.rehearsal import NO_MODEL, check_settings, in_earnest, with_rehearsal
from vllm_hpc.spec.request import NOT_REHEARSED, Request, convert_options
from vllm_hpc.spec.toml_file import parse_toml
from vllm_hpc.spec.trusted_owners import Distrust, read_judged
from vllm_hpc.spec.values import as_path

JOB_DEFINITION = "job.toml"
# The built-in model, whatever folders are here: whoever can write in a folder could leave one of that name there.
DEMO = "demo"


class Given(msgspec.Struct, frozen=True):
    """A Request and the origin of each value: "--tp", or the path of the job.toml.

    ``definition``: the bytes of that, which were checked; whatever its name leads to later was not. ``distrust``: who
    else may have written it, if anybody. ``program``: the code of --program or --script, once it was found.
    """

    request: Request
    origins: dict[str, str] = {}
    definition: bytes | None = None
    distrust: str | None = None
    program: FoundProgram | None = None


def read_options(options: dict[str, Any]) -> Given:
    """Build a Request from plain options, with errors that name the option.

    The keys of ``options`` are the long options with underscores; None means not given. If ``model`` is a folder
    with a job.toml, it is read first and the options override it. Raises RequestError.
    """
    plain = _with_partition({key: _plain(value) for key, value in options.items() if value is not None})
    given = with_passed(with_columns(plain))
    definition = find_definition(str(given["model"])) if "model" in given else None
    if definition is None:
        check_has_rows(options)
        _check_misnamed(str(given.get("model", "")))
        missing = "MODEL is missing: name a model folder, a Hub id, 'demo', or a folder with a job.toml"
        return Given(convert_options(_with_model(with_rehearsal(given), missing)), _options(given))
    del given["model"]
    asked = with_rehearsal(given)
    below, content, distrust = _read_definition(definition, asked)
    merged = _merge(below, asked)
    request = convert_options(in_earnest(merged) if asked.get("rehearse") is False else merged)
    origins = dict.fromkeys(below, str(definition)) | _options(asked)
    return Given(request, origins, content, distrust.fact if distrust else None)


def _with_partition(options: dict[str, Any]) -> dict[str, Any]:
    """The options with ``queue`` under its other name, as --queue and --partition are one. Raises RequestError."""
    if "queue" not in options:
        return options
    if "partition" in options:
        raise RequestError("queue and partition are the same: leave out one")
    return {"partition" if key == "queue" else key: value for key, value in options.items()}


def _plain(value: Any) -> Any:
    """Paths as strings, also in a list."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def make_request(options: dict[str, Any]) -> Request:
    """The Request of ``read_options``. Raises RequestError."""
    return read_options(options).request


def with_default_profile(given: Given) -> Given:
    """Use $VLLM_HPC_PROFILE where neither an option nor job.toml names a profile."""
    default = profile_in_use(None)
    if given.request.profile or not default:
        return given
    request = msgspec.structs.replace(given.request, profile=default)
    return msgspec.structs.replace(given, request=request, origins=given.origins | {"profile": "$VLLM_HPC_PROFILE"})


def _options(given: dict[str, Any]) -> dict[str, str]:
    return {key: option_of(key) for key in given}


def find_definition(model: str) -> Path | None:
    """The job.toml in the folder MODEL, None if there is none; what else has that name is refused when it is read."""
    if model == DEMO:
        return None
    try:
        definition = Path(model).expanduser() / JOB_DEFINITION
        return definition if os.path.lexists(definition) else None
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of an unknown user, a NUL
        return None


def _check_misnamed(model: str) -> None:
    """Refuse a MODEL that was meant as a job definition, and an empty folder, which is neither. Raises ModelError."""
    if model == DEMO:
        return
    try:
        path = Path(model).expanduser()
        is_file, is_empty = path.is_file(), path.is_dir() and not any(path.iterdir())
    except (OSError, RuntimeError, ValueError):
        return
    if is_file and path.name == JOB_DEFINITION:
        raise ModelError(f"{model!r} is a job definition's file: name its folder, {str(path.parent)!r}")
    if is_file and path.suffix == ".toml":
        raise ModelError(f"{model!r} is a file: a job definition is a folder with a {JOB_DEFINITION}: name the folder")
    if model and is_empty:
        raise ModelError(
            f"{model!r} is an empty folder: a model has a config.json, a job definition a {JOB_DEFINITION}"
        )


def _read_definition(path: Path, asked: dict[str, Any]) -> tuple[dict[str, Any], bytes, Distrust | None]:
    """The options of a job.toml, its bytes, and why not to do all that it says. ``asked``: what overrides it.

    Paths in it are relative to its folder. Raises RequestError.
    """
    try:
        content, distrust = read_judged(path)
        options = parse_toml(content, path)
        check_comments(content.decode("utf-8-sig"), str(path))
    except OSError as error:
        raise RequestError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise RequestError(str(error)) from None
    if distrust:
        _check_acts(path, options, asked, distrust)
    options = _checked(path, options, bool(asked.get("rehearse")))
    if distrust:
        _check_copies(path, {key: value for key, value in options.items() if key not in asked}, distrust)
    return options, content, distrust


def _check_acts(path: Path, options: dict[str, Any], asked: dict[str, Any], distrust: Distrust) -> None:
    # Of tables, and of names that are passed, only a part may be overridden.
    overridden = [key for key, value in asked.items() if not isinstance(value, dict) and key != "pass_env"]
    if found := acting(options, overridden):
        raise RequestError(f"{path}: '{found[0]}' may run or be charged as yours, but {distrust}")


def _check_copies(path: Path, options: dict[str, Any], distrust: Distrust) -> None:
    try:
        check_is_inside(path.parent, options, distrust.fact)
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    except (OSError, ValueError) as error:  # a folder that cannot be read, a loop of links; a NUL
        raise RequestError(f"{path}: what it names cannot be looked at: {error}") from None


def _checked(path: Path, options: dict[str, Any], rehearses: bool) -> dict[str, Any]:
    """The options of that file, with paths resolved against its folder. Raises RequestError."""
    options = _with_partition(options)
    unknown = sorted(set(options) - set(Request.__struct_fields__))
    if unknown:
        advice = instead_of(unknown[0]) or "use submit's long options, with underscores"
        raise RequestError(f"{path}: unknown key '{unknown[0]}': {advice}")
    try:
        options = _with_model(with_rehearsal(options), "'model' is missing", rehearses)
        # The caller may add what a fault needs, so the settings are checked together only after merging.
        check_settings(options.get("rehearse_set", {}))
        convert_options({key: value for key, value in options.items() if key != "rehearse_set"})
    except RequestError as error:
        raise RequestError(f"{path}: {error}") from None
    if isinstance(options.get("program"), str):
        options["program"] = program_beside(options["program"], path.parent)
    for key in ("template_dir", "chat_template", "rows_missing_from", *(["script"] if options.get("script") else [])):
        if isinstance(options.get(key), str) and not (key == "chat_template" and is_template_text(options[key])):
            options[key] = str(path.parent / os.path.expanduser(options[key]))  # noqa: PTH111 - never raises
    given = options.get("input")
    if given is not None:
        options["input"] = [_input_beside(path.parent, one) for one in ([given] if isinstance(given, str) else given)]
    if "lora" in options:
        options["lora"] = [_beside(path.parent, given) for given in options["lora"]]
    options["model"] = _model_beside(path.parent, options["model"])
    if image := options.get("container"):
        beside = path.parent / as_path(image, "container")
        options["container"] = str(beside.absolute()) if beside.exists() else image
    return options


def _model_beside(folder: Path, model: str) -> str:
    """A model's path resolved against a folder; a Hub id, 'demo', and what is not a path stay what they are."""
    beside = folder / as_path(model, "model")
    is_path = model.startswith((".", "~")) or ("/" in model and beside.parent.is_dir())
    return str(beside) if model not in (NO_MODEL, DEMO) and (beside.exists() or is_path) else model


def _with_model(options: dict[str, Any], missing: str, rehearses: bool = False) -> dict[str, Any]:
    """The options with a model, which a rehearsal may leave out, and a script has not. Raises RequestError."""
    if rehearses or options.get("rehearse", False) is not False or options.get("script") is not None:
        return {"model": NO_MODEL, **options}
    if "model" not in options:
        raise RequestError(NOT_REHEARSED if options.get("rehearse_set") else missing)
    return options


def _input_beside(folder: Path, given: str) -> str:
    """An input resolved against a folder, whose own name is no part of a pattern; standard input stays what it is."""
    if given in ("", "-"):
        return given
    beside = str(folder / Path(given).expanduser())
    is_pattern = any(sign in given for sign in "*?[") and not os.path.exists(beside)  # noqa: PTH110 - never raises
    return str(Path(glob.escape(str(folder))) / Path(given).expanduser()) if is_pattern else beside


def _beside(folder: Path, given: str) -> str:
    """``NAME=PATH``, or a bare PATH, with the path resolved against a folder."""
    name, sign, path = given.partition("=")
    if not sign or "/" in name:
        return str(folder / Path(given).expanduser())
    return f"{name}={folder / Path(path).expanduser()}"


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Merge options; ``above`` overrides ``below``, in tables (sampling, engine, env, rehearse) key by key."""
    below = without_overridden(below, above)
    variables = merge_variables(below, above)
    below = {**below, **variables}
    merged = {**below, **above, **{key: value for key, value in variables.items() if key != "env"}}
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            merged[key] = {**below[key], **value}
    return merged
