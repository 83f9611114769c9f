"""Variables that are given by their name alone: ``--env NAME``, None as a value in Python, ``pass_env`` in job.toml.

A profile's ``secrets`` are such variables of every job. Their names alone are in job.json and the script. The job
inherits them from the shell that submits; where the scheduler does not hand that environment on, a file of the job's
owner alone has the values (jobfolder/passed.py).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from typing import Any

from vllm_hpc.spec.environment_variables import check_names, check_own_value
from vllm_hpc.spec.errors import RequestError
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


def check_set(names: Sequence[str], secrets: Collection[str] = (), is_resume: bool = False) -> None:
    """Refuse to submit from a shell in which these variables are not set, or empty; ``secrets``: the profile's.

    Raises RequestError.
    """
    for name in names:
        if os.environ.get(name):
            check_own_value(name, os.environ[name], "--env")
        elif is_resume:
            raise RequestError(
                f"the job takes {name} from the shell that submits it (--env), but it is not set here: "
                "export it and run resume again"
            )
        elif name in secrets:
            raise RequestError(
                f"the profile's secrets name {name}, which is not set here: export it, or leave it out of 'secrets' in "
                "a profile file of your own"
            )
        else:
            advice = "export it" if is_secret(name) else "export it, or give a value, as K=V"
            raise RequestError(f"--env {name} names a variable that is not set here: {advice}")
