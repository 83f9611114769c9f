"""Errors as Python shows them: in its words (``max_tokens=``, not ``--max-tokens``), and short.

The rooms below word an error for the command line. At the border, each function of ``vllm_hpc`` words it anew and cuts
off its own frames; a notebook shows one line, and ``%tb`` the whole of it.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

from vllm_hpc.api.options import Options
from vllm_hpc.spec.allowed import CHANGES_ANSWERS
from vllm_hpc.spec.errors import VllmHpcError
from vllm_hpc.spec.registry import LAUNCHERS, SCHEDULERS
from vllm_hpc.spec.row_order import INPUT, PREFIX
from vllm_hpc.spec.visible import one_line

Function = TypeVar("Function", bound=Callable[..., Any])
_TABLES = frozenset({"engine", "sampling", "env", "rename", "rehearse_set"})
_FLAGS = frozenset({
    "drop_last_answer", "private", "seed_rows", "array", "ep", "rehearse", "requeue_script", "debug_ranks",
    "reproducible", "retry_errors", "not_submitted",
})  # fmt: skip
# What methods of Job and tune() call as their options do.
_OF_OTHERS = ("model", "rank", "output", "job_id", "retry_errors", "not_submitted", "sweep", "rows", "prompt_tokens")
_NAMES = frozenset({*Options.__annotations__, *_OF_OTHERS})
_WORDS = "|".join(sorted({*SCHEDULERS.built_in, *LAUNCHERS.built_in, *CHANGES_ANSWERS, "auto"}))
# A command of the shell, which stays: in quotes with options of its own, or vllm-hpc's up to the end.
_COMMAND = re.compile(r"(?<!\w)'[a-z][\w-]* [^']*?-[-a-z][^']*'|(?<!\w)'vllm-hpc [^']*'|(?<!')\bvllm-hpc [a-z]+ .*")
_OPTION = re.compile(
    r"""(?<![\w'"/-])--(?P<name>[a-z][a-z-]*[a-z])(?![\w=-])"""
    r"""(?:\ (?P<value>-?(?:[0-9][\w.:-]*|nan\b|inf\b)(?![\w=])|'[^']*'|"[^"]*"|"""
    rf"""[A-Z][A-Z_:]+\b(?!=)|(?:{_WORDS})(?:,(?:{_WORDS}))*\b|(?:{PREFIX}|{INPUT})\b(?![.=/-])|-(?=\ |$|,)))?"""
)
_IN_TABLE = r"\b(?P<table>engine|sampling|env|rename|rehearse_set)= (?P<key>[A-Za-z_]\w*)"
_ENTRY = re.compile(_IN_TABLE + r"=(?P<value>[^\s,;)]+)")
_KEY = re.compile(_IN_TABLE + r"(?=\W|$)")
# What the refusal of rows without a prompt advises: a column or a template, which Python has as one option.
_PROMPT = re.compile(
    r"--prompt-(?:column|template) (?:with )?(?P<value>'[^']*'|\{\{.*?\}\}|[A-Za-z_][\w.-]*)"
    r"(?=$|,| or | for | with the | to run |[;)])"
)
# Words of a sentence that follow an option, and are no key of its table.
_PROSE = frozenset({
    "a", "an", "and", "are", "as", "be", "cannot", "does", "for", "gives", "has", "have", "here", "in", "instead", "is",
    "it", "must", "needs", "not", "of", "or", "out", "says", "sets", "takes", "the", "to", "which", "with", "yourself",
})  # fmt: skip
_EXAMPLE = re.compile(r" such as \{ .* \}, or in Python (?=\{)")


def in_python(function: Function) -> Function:
    """Word anew, and without the frames below, the errors of vllm-hpc that a public function lets through."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        try:
            return function(*args, **options)
        except VllmHpcError as error:
            raise as_python_says(error) from None

    return call  # type: ignore[return-value]


def as_python_says(error: VllmHpcError) -> VllmHpcError:
    """The same error in Python's words; its frames are kept for ``%tb``."""
    error.frames = error.frames or error.__traceback__
    error.args = tuple(python_words(word) if isinstance(word, str) else word for word in error.args)
    return error.with_traceback(None)


def python_words(text: str) -> str:
    """A message of the command line in Python's words; commands that it names stay as they are."""
    parts, end = [], 0
    for command in _COMMAND.finditer(text):
        parts += [_reworded(text[end : command.start()]), command[0]]
        end = command.end()
    return "".join([*parts, _reworded(text[end:])])


def _reworded(text: str) -> str:
    text = _EXAMPLE.sub(" such as ", text)
    text = _PROMPT.sub(lambda found: f"prompt={_quoted(found['value'])}", text)
    text = _OPTION.sub(_option, text)
    text = _KEY.sub(_key, _ENTRY.sub(_entry, text))
    text = re.sub(r"\bMODEL\b", "model", text)
    # find_job has no profile=
    text = text.replace("or profile= for its job_dir", "or $VLLM_HPC_PROFILE for its job_dir")
    return text.replace("must be a table", "must be a dict").replace("must be true or false", "must be True or False")


def _option(found: re.Match[str]) -> str:
    name, value = found["name"].replace("-", "_"), found["value"]
    if name not in _NAMES:
        return found[0]
    if value is not None and name not in _TABLES:
        return f"{name}={value if _is_literal(value) else repr(value)}"
    rest = found.string[found.end("name") :]
    if name in _FLAGS and not rest.startswith((" must be", " has")):
        return f"{name}=True{rest[: found.end() - found.end('name')]}"
    sign = "" if rest.startswith(":") else "="
    return f"{name}{sign}{rest[: found.end() - found.end('name')]}"


def _entry(found: re.Match[str]) -> str:
    value, is_text = found["value"], found["table"] in ("env", "rename")
    shown = value if not is_text and (_is_literal(value) or value[0] in "{[") else repr(value)
    return f"{found['table']}={{{found['key']!r}: {shown}}}"


def _key(found: re.Match[str]) -> str:
    return found[0] if found["key"] in _PROSE else f"{found['table']}[{found['key']!r}]"


def _quoted(value: str) -> str:
    return value if value.startswith("'") else repr(value)


def _is_literal(value: str) -> bool:
    """Whether it stands as it is: a number, a quoted text, or a placeholder such as FILE."""
    return bool(
        re.fullmatch(r"""-?[0-9]+(\.[0-9]+)?(e-?[0-9]+)?|-?(nan|inf)|'.*'|".*"|[A-Z][A-Z_:]+|true|false|null""", value)
    )


def rendered(error: VllmHpcError) -> list[str]:
    """What IPython prints for an error: one line; asked again (``%tb``), its traceback."""
    line = f"{type(error).__name__}: {one_line(python_words(str(error)), 4000)}"
    if not error.is_shown:
        error.is_shown = True
        return [line]
    frames = traceback.format_tb(error.__traceback__) + traceback.format_tb(error.frames)
    return ["Traceback (most recent call last):", *(frame.rstrip("\n") for frame in frames), line]
