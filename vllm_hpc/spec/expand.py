"""Variables in a profile's values: $USER, ${SCRATCH}, ${VAR:-x}; ``$$`` is a dollar sign.

They are expanded when the job is submitted, from the environment of whoever submits, or by the node's shell: the key
says which (spec/profile.py). Nothing else of a shell's is: no commands, no patterns, no words.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.keys import is_table_of_tables, keys_of, table_of
from vllm_hpc.spec.ownership import user_name
from vllm_hpc.spec.secret_shapes import is_secret
from vllm_hpc.spec.values import CHECKS

S = TypeVar("S", bound=msgspec.Struct)

_VARIABLE = re.compile(
    r"\$(?:(?P<dollar>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<braced>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[\w./:@%+,=-]*))?\}|)",
    re.ASCII,
)


def check_variables(text: str, origin: str) -> None:
    """Refuse a ``$`` that is neither a variable's nor doubled. Raises RequestError."""
    for match in _VARIABLE.finditer(text):
        if match[0] == "$":
            raise RequestError(
                f"{origin} {text!r}: after '$' must come a variable, as in $USER, ${{USER}} or ${{USER:-x}}, or "
                "another '$', for a dollar sign"
            )


def has_variables(text: str) -> bool:
    """Whether a text has a ``$``, and so is not to be taken as it is."""
    return "$" in text


def expand(text: str, environment: Mapping[str, str], origin: str) -> str:
    """The text with the variables' values. Raises RequestError for one that is not set, or holds a secret."""

    def value(match: re.Match[str]) -> str:
        name = match["name"] or match["braced"]
        if name is None:
            return "$"
        if is_secret(name):
            raise RequestError(f"{origin} {text!r}: ${name} is a secret, and the value would be written: leave it out")
        found = environment.get(name) or match["default"]
        if found is None and name == "USER":
            found = user_name(os.geteuid())
        if found is None:
            raise RequestError(
                f"{origin} {text!r}: ${name} is not set here: export it, or write ${{{name}:-VALUE}} in the profile"
            )
        return found

    check_variables(text, origin)
    return _VARIABLE.sub(value, text)


def expand_table(table: S, environment: Mapping[str, str], origin: str, but: Collection[str] = ()) -> S:
    """A profile with what is expanded at submission expanded, in its tables too. Raises RequestError.

    ``but``: keys that an option overrides, of which the variables need not be set.
    """
    changes: dict[str, Any] = {}
    for name, key in keys_of(type(table)).items():
        value, place = getattr(table, name), f"{origin}: '{name}'"
        if isinstance(value, msgspec.Struct):
            changes[name] = expand_table(value, environment, place)
        elif is_table_of_tables(key.kind) and table_of(key.kind):
            changes[name] = {
                inside: expand_table(one, environment, f"{place} {inside}", but) for inside, one in value.items()
            }
        elif key.expanded == "at submission" and value and name not in but:
            changes[name] = _expanded(name, value, environment, place)
    return msgspec.structs.replace(table, **changes)


def _expanded(name: str, value: Any, environment: Mapping[str, str], origin: str) -> Any:
    """A text, or texts, with variables' values, which must be as the key's are."""
    texts = (value,) if isinstance(value, str) else value
    if not any(map(has_variables, texts)):
        return value
    given = tuple(expand(one, environment, origin) for one in texts)
    made = given[0] if isinstance(value, str) else given
    if check := CHECKS.get(name):
        check(made, origin)
    return made


def without_variables(text: str) -> str:
    """What of a text is the same wherever it is expanded: without its variables, with its dollars."""
    return _VARIABLE.sub(lambda match: "" if match["name"] or match["braced"] else "$", text)


def on_node(text: object) -> str:
    """Quote a value for a line of the node's shell, which sets in its variables: one word, whatever these hold.

    Use it outside quotes. One that is not set there, and has no default, ends the shell with a line that names it.
    """
    words, end = "", 0
    for match in _VARIABLE.finditer(str(text)):
        words += _quoted(str(text)[end : match.start()]) + _on_node(match)
        end = match.end()
    return words + _quoted(str(text)[end:]) or "''"


def _quoted(text: str) -> str:
    return shlex.quote(text) if text else ""


def _on_node(match: re.Match[str]) -> str:
    name = match["name"] or match["braced"]
    if name is None:
        return "'$'"
    return f'"${{{name}:-{match["default"]}}}"' if match["default"] is not None else f'"${{{name}:?is not set here}}"'
