"""Variables that are given by their name alone: ``--env NAME``, None as a value in Python, ``pass_env`` in job.toml.

One with a secret is inherited from the shell that submits, and its name alone is written; any other is written as it
is in that shell.
"""

from __future__ import annotations

import os
from typing import Any

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import is_secret_variable


def with_passed(options: dict[str, Any]) -> dict[str, Any]:
    """The options with those variables in ``env`` or ``pass_env``. Raises RequestError for one that is not set."""
    env = options.get("env")
    if not isinstance(env, dict) or None not in env.values():
        return options
    check_set([name for name, value in env.items() if value is None])
    values = {name: os.environ[name] if value is None else value for name, value in env.items()}
    names = [name for name, value in env.items() if value is None and is_secret_variable(name, values[name])]
    kept = {name: value for name, value in values.items() if name not in names}
    return {**options, "env": kept, "pass_env": [*options.get("pass_env", []), *names]}


def check_set(names: list[str]) -> None:
    """Refuse to submit from a shell that does not have these variables. Raises RequestError."""
    for name in names:
        if name not in os.environ:
            raise RequestError(
                f"--env {name} names a variable that is not set here: export it, or give a value, as K=V"
            )


def check_passes(names: list[str], whither: str, is_passed: bool) -> None:
    """Refuse variables that the job would not inherit. Raises RequestError."""
    check_set(names)
    if names and not is_passed:
        raise RequestError(
            f"--env {names[0]} has a secret, and {whither} does not hand on the environment of your shell: read it "
            "from a file in the profile's setup, as in export HF_TOKEN=$(cat ~/.hf_token), or download a gated model "
            "first"
        )
