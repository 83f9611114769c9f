"""Which options go with --script and --program. A script brings its own model, rows and engine."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import check_line
from vllm_hpc.spec.rehearsal import NO_MODEL

if TYPE_CHECKING:
    from vllm_hpc.spec.request import Request

# What is about a model, rows or an engine that vllm-hpc would start.
_NOT_OF_SCRIPTS = (
    "input", "rows_missing_from", "max_tokens", "temperature", "top_p", "seed", "seed_rows", "chat_template", "lora",
    "prompt_column", "prompt_template", "id_column", "keep", "rename", "drop_last_answer", "order", "sampling",
    "engine", "array", "ep", "attention_dp", "rehearse", "drain_lead", "verify", "reproducible", "allow",
)  # fmt: skip
_WHY = "a script has its own model, rows and engine"


def program_beside(text: str, folder: Path) -> str:
    """What a job.toml in ``folder`` names as its program: a file is beside it, a module stays what it is."""
    place, sign, name = text.rpartition(":")
    if not sign or not place.endswith(".py"):
        return text
    return f"{folder / os.path.expanduser(place)}:{name}"  # noqa: PTH111 - never raises


def check_program_options(request: Request) -> None:
    """Refuse options that do not go together. Raises RequestError."""
    if request.script is None:
        if request.script_args:
            raise RequestError("--script-args is for --script: add --script FILE, or leave it out")
        if request.requeue_script and request.program is None:
            raise RequestError("--requeue-script is for --script, and for a --program with run: leave it out")
        return
    if request.program is not None:
        raise RequestError("--program and --script are both given: keep one")
    if request.model != NO_MODEL:
        raise RequestError(
            f"--script and MODEL {request.model!r}: {_WHY}: leave MODEL out; the script's own arguments are one "
            "text: --script-args '--steps 3'"
        )
    defaults = {field.name: field.default for field in msgspec.structs.fields(type(request))}
    for key in _NOT_OF_SCRIPTS:
        value = getattr(request, key)
        if value not in (defaults[key], [], {}, ()):
            raise RequestError(f"--script and --{key.replace('_', '-')}: {_WHY}: leave it out")
    if request.launcher == "native":
        raise RequestError("--script and --launcher native: every rank runs the script: leave it out")
    _check_arguments(request.script_args)


def _check_arguments(arguments: list[str]) -> None:
    if any("\0" in one for one in arguments):
        raise RequestError("--script-args has a NUL, which no argument has: correct it")
    check_line(shlex.join(arguments), "--script-args", is_shell=False)
