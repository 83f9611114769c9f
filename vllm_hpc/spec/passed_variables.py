"""Variables that are given by their name alone: ``--env NAME``, None as a value in Python, ``pass_env`` in job.toml.

The job inherits them from the shell that submits, and their names alone are written. Where the scheduler does not hand
that environment on, the values have to be written, and a secret is refused.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec

from vllm_hpc.spec.environment_variables import check_env, check_names, check_seconds
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import is_secret_variable
from vllm_hpc.spec.request import Request
from vllm_hpc.spec.secret_shapes import is_secret


def with_passed(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those variables in ``pass_env``. Raises RequestError for one that cannot be set, or is not."""
    env = options.get("env")
    if not isinstance(env, dict) or None not in env.values():
        return options
    names = [name for name, value in env.items() if value is None]
    check_names(names, "--env")
    check_set(names)
    kept = {name: value for name, value in env.items() if value is not None}
    return {**options, "env": kept, "pass_env": list(dict.fromkeys([*options.get("pass_env", []), *names]))}


def merge_variables(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``pass_env``, and ``env`` of ``below``, for options of which ``above`` overrides ``below``, name by name."""
    env, names = below.get("env"), below.get("pass_env")
    given, passed = above.get("env"), above.get("pass_env")
    merged: dict[str, Any] = {}
    if isinstance(env, dict) and isinstance(passed, list):
        merged["env"] = {name: value for name, value in env.items() if name not in passed}
    if isinstance(names, list):
        kept = [name for name in names if not (isinstance(given, dict) and name in given)]
        merged["pass_env"] = list(dict.fromkeys([*kept, *(passed if isinstance(passed, list) else [])]))
    return merged


def check_set(names: list[str], is_resume: bool = False) -> None:
    """Refuse to submit from a shell in which these variables are not set, or empty. Raises RequestError."""
    for name in names:
        if os.environ.get(name):
            check_seconds(name, os.environ[name], "--env")
        elif is_resume:
            raise RequestError(
                f"the job takes {name} from the shell that submits it (--env), but it is not set here: "
                "export it and run resume again"
            )
        else:
            advice = "export it" if is_secret(name) else "export it, or give a value, as K=V"
            raise RequestError(f"--env {name} names a variable that is not set here: {advice}")


def with_values(request: Request, whose: str) -> Request:
    """The request for a job that does not inherit the variables, with their values in ``env``.

    ``whose`` does not hand them on. Raises RequestError if one is a secret, or cannot be written.
    """
    values = {name: os.environ[name] for name in request.pass_env}
    for name, value in values.items():
        if is_secret_variable(name, value):
            raise RequestError(
                f"--env {name} has a secret, and {whose} does not hand on the environment of your shell: read it "
                "from a file in the profile's setup, as in export HF_TOKEN=$(cat ~/.hf_token), or download a gated "
                "model first"
            )
    check_env(values, "--env")
    return msgspec.structs.replace(request, env={**request.env, **values}, pass_env=[])


def describe_written(names: list[str], whose: str) -> str | None:
    """What to tell the user of variables whose values are written; None without any."""
    if not names:
        return None
    what = f"value of {names[0]} is" if len(names) == 1 else f"values of {', '.join(names)} are"
    return f"the {what} written into the job folder, for {whose} does not hand on the environment of your shell"
