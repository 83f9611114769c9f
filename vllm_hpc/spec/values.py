"""Checks of single values, wherever they come from: an option, a job definition, a profile.

Every check takes the value and ``origin``, its name in the message, and raises RequestError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from vllm_hpc.spec.bash_syntax import find_fault
from vllm_hpc.spec.bounds import MOST_MEMORY_MB
from vllm_hpc.spec.container import check_container
from vllm_hpc.spec.directives import OWNED_RESOURCES, check_directive
from vllm_hpc.spec.environment_variables import check_env, check_names
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.no_secrets import check_line, check_named
from vllm_hpc.spec.repeats import first_repeated

# Slurm's time formats: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS (man sbatch, --time).
_WALLTIME = re.compile(r"(?:(?P<days>[0-9]{1,4})-)?(?P<clock>[0-9]{1,6}(?::[0-9]{1,2}){0,2})")
_MEMORY = re.compile(r"[0-9]{1,9}([KMGT]B?)?", re.IGNORECASE)
# In a PBS chunk a '+' begins the next chunk; in -l a ',' begins the next resource. Names are case-insensitive.
_IN_CHUNK = re.compile(r"[A-Za-z_][\w.]*=[\w./@%-]+", re.ASCII)
_RESOURCE = re.compile(r"[A-Za-z_][\w.]*=[\w.+/@%:=-]+", re.ASCII)
_GPU_TYPE = re.compile(r"[A-Za-z0-9_.-]+")
_HOST_SUFFIX = re.compile(r"[A-Za-z0-9.-]*")
# Job ids: Slurm's 197, 197_1, 197_[0-3], 197+1, 197;cluster; the local scheduler's 4711-1763820000; PBS's 12.server,
# 12[].server, 12[3], 12[3].server.
_JOB_ID = re.compile(
    r"[0-9]+(_([0-9]+|\[.*\])|\+[0-9]+|-[0-9]{9,}|\[[0-9]*\])?(;.*)?|[0-9]+(\[[0-9]*\])?\.[A-Za-z][\w.-]*"
)
# submitit replaces these in any path it is given (submitit.core.utils.JobPaths._format_id).
_SUBMITIT_TAGS = ("%j", "%t", "%A", "%a")


def parse_walltime(text: str, origin: str = "--time") -> int:
    """Seconds in a walltime in one of Slurm's formats: minutes, MM:SS, HH:MM:SS, D-HH[:MM[:SS]]."""
    match = _WALLTIME.fullmatch(text)
    if not match:
        raise RequestError(f"{origin} must be a walltime (minutes, HH:MM:SS or D-HH:MM:SS), not {text!r}")
    fields = [int(part) for part in match["clock"].split(":")]
    if match["days"] is not None or len(fields) == 3:
        hours, minutes, seconds = (*fields, 0, 0)[:3]
    else:
        hours, minutes, seconds = (0, *fields, 0)[:3]
    total = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise RequestError(f"{origin} {text!r} is zero: give the job some time")
    return total


def check_memory(text: str, origin: str) -> None:
    """An amount of memory in Slurm's format."""
    if not _MEMORY.fullmatch(text):
        raise RequestError(
            f"{origin} must be an amount of memory (64G, 64000M, or 0 for all of the node's), not {text!r}"
        )
    if megabytes(text) > MOST_MEMORY_MB:
        raise RequestError(f"{origin} must be at most {MOST_MEMORY_MB >> 20}T, a node's memory, not {text!r}")


def megabytes(text: str) -> int:
    """An amount of memory that ``check_memory`` takes, in MiB, rounded down; a plain number is Slurm's MiB."""
    digits = re.match("[0-9]*", text)
    number, unit = int(digits[0] if digits else 0), text.upper().rstrip("B").lstrip("0123456789")
    return (number << 10 * " KMGT".index(unit or "M")) >> 20


def check_one_line(text: str, origin: str) -> None:
    """A string that fits on one line of the script."""
    if not text or not text.isprintable() or text != text.strip():
        raise RequestError(
            f"{origin} {text!r} is empty, or has a newline, another control character, or leading or trailing space"
        )


def check_name(name: str, origin: str) -> None:
    """A valid folder name, without characters that a shell, a reader or a scheduler would misread."""
    if not name:
        raise RequestError(f"{origin} must not be empty: leave it out, or give a name")
    if not name.strip() or name in (".", "..") or name[0] in ".-~" or "/" in name or "*" in name:
        raise RequestError(
            f"{origin} {name!r} cannot be a folder's name: leave out '/', '*', and a leading '.', '-' or '~'"
        )
    check_path(name, origin)
    if not name.isprintable() or name != name.strip():
        raise RequestError(f"{origin} {name!r} has leading or trailing space, or an invisible character: remove it")
    if len(name.encode("utf-8")) > 200:
        raise RequestError(f"{origin} is too long: at most 200 bytes")


def check_job_name(name: str, origin: str) -> None:
    """A job's name: a valid folder name that 'cancel' and 'status' cannot mistake for a job id."""
    check_name(name, origin)
    if _JOB_ID.fullmatch(name):
        raise RequestError(f"{origin} {name!r} looks like a scheduler's job id: add a letter, as in 'run-{name}'")


def check_path(path: str, origin: str) -> None:
    """A path that is safe in a script and in submitit."""
    if not path or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise RequestError(f"{origin} {path!r} is empty or contains a control character: choose another name")
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(f"{origin} {path!r} is not valid UTF-8: choose another name") from None
    if "\\" in path:
        raise RequestError(f"{origin} {path!r} contains a backslash, which Slurm drops from log names: rename it")
    for tag in _SUBMITIT_TAGS:
        if tag in path:
            raise RequestError(
                f"{origin} {path!r} contains {tag!r}, which submitit and Slurm replace: choose another name"
            )


def check_directives(lines: list[str], origin: str) -> None:
    """Options for the scheduler, each on its own line; ``check_owned`` refuses those that vllm-hpc sets."""
    for line in lines:
        check_line(line, origin, is_shell=False)
        check_one_line(line, origin)
        check_directive(line, origin)


def check_chunk(parts: tuple[str, ...], origin: str) -> None:
    """What a profile adds to a PBS chunk, such as system=polaris."""
    for part in parts:
        if not _IN_CHUNK.fullmatch(part) or part.partition("=")[0].lower() in OWNED_RESOURCES:
            raise RequestError(f"{origin} {part!r} cannot be added to a chunk: write it as in 'system=polaris'")
    _check_once(parts, origin)


def check_resources(resources: tuple[str, ...], origin: str) -> None:
    """What a profile requests from PBS with -l, such as filesystems=home:eagle or rt_HF={nodes}."""
    for text in resources:
        name = text.partition("=")[0].lower()
        if not _RESOURCE.fullmatch(text.replace("{nodes}", "1").replace("{gpus}", "1")):
            raise RequestError(
                f"{origin} must be resources as in 'filesystems=home:eagle', one per entry, not {text!r}"
            )
        if name in OWNED_RESOURCES:
            raise RequestError(f"{origin} {name} cannot be set here: {OWNED_RESOURCES[name]}")
    _check_once(resources, origin)


def _check_once(parts: tuple[str, ...], origin: str) -> None:
    """Refuse a name given twice: qsub would silently use the first."""
    if twice := first_repeated(part.partition("=")[0].lower() for part in parts):
        raise RequestError(f"{origin} {twice} is given twice, and PBS uses only the first: merge them")


def check_words(words: tuple[str, ...], origin: str) -> None:
    """Words for a command line."""
    check_line(" ".join(words), origin, is_shell=False)
    for word in words:
        check_one_line(word, origin)


def check_shell_lines(lines: tuple[str, ...], origin: str) -> None:
    """Single lines for the job's shell that together are complete commands."""
    for line in lines:
        check_line(line, origin, is_shell=True)
        check_one_line(line, origin)
    if lines:
        _check_syntax("\n".join(lines), origin)


def check_shell_command(line: str, origin: str) -> None:
    """A command whose output the job's shell reads, as in $(hostname -i)."""
    check_line(line, origin, is_shell=True)
    check_one_line(line, origin)
    # Checked alone too: inside the quotes, an extra ')' would become part of the address.
    _check_syntax(line, origin)
    _check_syntax(f'address="$({line})"', origin)


def check_host_suffix(text: str, origin: str) -> None:
    """A suffix for a host name: letters, digits, '.' and '-', or empty."""
    if not _HOST_SUFFIX.fullmatch(text):
        raise RequestError(
            f"{origin} must be part of a host name (letters, digits, '.' and '-', as in '.hsn'), not {text!r}"
        )


def check_python(path: str, origin: str) -> None:
    """The Python of an environment, of which the folder is put first in PATH: other names would not be called."""
    check_path(path, origin)
    if not path.startswith(("/", "~/")) or Path(path).name not in ("python", "python3") or ":" in path:
        raise RequestError(
            f"{origin} must be an environment's python by its absolute path, as in '/sw/vllm/bin/python', without ':', "
            f"not {path!r}"
        )


def check_description(text: str, origin: str) -> None:
    """A text of one line, or none."""
    if text:
        check_one_line(text, origin)


def check_gpu_type(text: str, origin: str) -> None:
    """A GPU's type as Slurm's gres.conf names it: h100 of gpu:h100:4."""
    if not _GPU_TYPE.fullmatch(text):
        raise RequestError(f"{origin} must be a type of gres.conf (letters, digits, '_', '.' and '-'), not {text!r}")


@cache
def _check_syntax(code: str, origin: str) -> None:
    """Refuse code that bash cannot parse, or that would take in the next line of the script. Raises RequestError."""
    fault = find_fault(code)
    if fault is None and code.endswith("\\"):
        fault = "a trailing backslash joins it to the next line of the script"
    if fault is not None:
        raise RequestError(f"{origin} must be valid bash: {re.sub('^line', 'its line', fault)}")


def check_json(value: Any, origin: str, depth: int = 0) -> None:
    """A value that fits in job.json: no NaN, no infinity, not nested too deep."""
    if depth > 50:
        raise RequestError(f"{origin} is nested too deeply")
    if isinstance(value, float) and not math.isfinite(value):
        raise RequestError(f"{origin} contains {value}, which JSON cannot express")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            check_json(item, origin, depth + 1)


def check_arguments(arguments: dict[str, Any], origin: str) -> None:
    """Arguments for vLLM that fit in job.json and are not secrets."""
    for key, value in arguments.items():
        check_json(value, f"{origin} {key}")
    check_named(arguments, origin)


def check_sampling_arguments(arguments: dict[str, Any], origin: str) -> None:
    """The same for SamplingParams, whose texts are what a model may say."""
    for key, value in arguments.items():
        check_json(value, f"{origin} {key}")
    check_named(arguments, origin, is_prose=True)


def as_path(text: str, origin: str) -> Path:
    """A path with ~ expanded that is valid on this system's file systems."""
    if "\0" in text:  # which exists() below takes for a path that is not there
        raise RequestError(f"{origin} {text!r} has a NUL, which no path has: correct it")
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise RequestError(f"{origin} {text!r}: {reason}") from None
    return path


# key of a Request or a Profile -> the check for its value
CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "partition": check_one_line,
    "account": check_one_line,
    "qos": check_one_line,
    "time": parse_walltime,
    "mem": check_memory,
    "max_time": parse_walltime,
    "mem_per_node": check_memory,
    "mem_per_gpu": check_memory,
    "gpu_type": check_gpu_type,
    "description": check_description,
    "name": check_job_name,
    "job_dir": check_path,
    "template": check_path,
    "template_dir": check_path,
    "env": check_env,
    "pass_env": check_names,
    "secrets": check_names,
    "directive": check_directives,
    "directives": check_directives,
    "setup": check_shell_lines,
    "node_setup": check_shell_lines,
    "cpu_bind": check_description,
    "scratch": check_path,
    "cache_dir": check_path,
    "python": check_python,
    "head_command": check_shell_command,
    "head_suffix": check_host_suffix,
    "chunk": check_chunk,
    "resources": check_resources,
    "launcher_options": check_words,
    "srun_options": check_words,
    "torchrun_options": check_words,
    "container": check_container,
    "sampling": check_sampling_arguments,
    "engine": check_arguments,
}
