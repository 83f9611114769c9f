"""vLLM's arguments and their types, read from its source if it is installed.

vLLM is not imported, which would take 10 s. An argument it refuses would fail the job only after its time in a queue.
"""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.sampling_names import first_of_others
from vllm_hpc.spec.server_arguments import SERVER_ARGUMENTS, check_server_arguments

_HOMES = {
    "engine": ("engine/arg_utils.py", "EngineArgs"),
    "sampling": ("sampling_params.py", "SamplingParams"),
}
# Type of an annotation -> its name in errors. The contents of lists and dicts are not checked.
_NAMES: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "a string", list: "a list",
    dict: "a JSON object",
}  # fmt: skip
_TYPES = {kind.__name__: kind for kind in _NAMES}
# The strings that pydantic, which vLLM's configs use, reads as true and as false.
_WORDS = dict.fromkeys(("true", "t", "yes", "y", "on", "1"), True) | dict.fromkeys(
    ("false", "f", "no", "n", "off", "0"), False
)
_NUMERALS: dict[type, str] = {
    int: r"[+-]?[0-9][0-9_]{0,99}",
    float: r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?",
}
_MOST_CHOICES, _MOST_IMPORTS = 12, 5


class Accepted(msgspec.Struct, frozen=True):
    """What an argument accepts: values of some types, and single values."""

    types: frozenset[type] = frozenset()
    values: tuple[Any, ...] = ()

    def __or__(self, other: Accepted) -> Accepted:
        return Accepted(self.types | other.types, self.values + other.values)

    def takes(self, value: Any) -> bool:
        """Whether it accepts the value unchanged: true and false are 1 and 0, and whole numbers are numbers."""
        if type(value) in self.types or value in self.values:
            return True
        if isinstance(value, str):  # vLLM reads some choices like this, and refuses the others itself
            return value.lower().replace("-", "_") in self.values
        return isinstance(value, bool | int) and (float in self.types or (value in (0, 1) and self._is_switch))

    @property
    def _is_switch(self) -> bool:
        return not self.types.isdisjoint({bool, int})

    def read(self, value: Any) -> Any:
        """The value converted as pydantic would convert it; else unchanged."""
        if isinstance(value, str):
            text = value.strip()
            if int in self.types and re.fullmatch(_NUMERALS[int], text):
                return int(text)
            if float in self.types and re.fullmatch(_NUMERALS[float], text):
                return float(text)
            return _WORDS.get(text.lower(), value) if bool in self.types else value
        if isinstance(value, float) and value.is_integer() and self._is_switch and float not in self.types:
            return int(value)
        return value

    def __str__(self) -> str:
        words = [name for kind, name in _NAMES.items() if kind in self.types]
        more = [f"{len(self.values) - _MOST_CHOICES} more"] if len(self.values) > _MOST_CHOICES else []
        choices = [str(value) for value in self.values[:_MOST_CHOICES]] + more
        return " or ".join(words + ([f"one of {', '.join(choices)}"] if self.values else []))


def typed(kind: str, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with values of the types that the installed vLLM expects. Raises RequestError.

    ``kind`` is "engine" for fields of vLLM's EngineArgs, "sampling" for those of SamplingParams, which are not
    converted. Without vLLM here, values stay unchanged, and only names of servers are refused.
    """
    given = {name: _plain(f"--{kind} {name}", value) for name, value in given.items()}
    if kind == "sampling" and (said := first_of_others(given)):
        raise RequestError(f"--sampling: {said}")
    package = _package() if given else None
    of_server = SERVER_ARGUMENTS if kind == "engine" else ()
    if kind == "engine":
        check_server_arguments(given, tool_parsers() if package else frozenset())
    module = _parse(package / _HOMES[kind][0]) if package else None
    known = _fields(module, _HOMES[kind][1]) if module else {}
    if not known or package is None:
        return given
    for name in given:
        if name not in known and name not in of_server:
            import difflib

            near = difflib.get_close_matches(name, [*known, *of_server], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see vLLM's {_HOMES[kind][1]}"
            raise RequestError(f"--{kind} {name!r} is not an argument of the vLLM installed here: {hint}")
    return {
        name: value if name in of_server else _typed(kind, name, value, _accepted(known[name], module, package))
        for name, value in given.items()
    }


@cache
def sampling_names() -> frozenset[str]:
    """The fields of the installed vLLM's SamplingParams; none if vLLM is not installed."""
    package = _package()
    module = _parse(package / _HOMES["sampling"][0]) if package else None
    return frozenset(_fields(module, _HOMES["sampling"][1])) - {"output_kind", "skip_clone"} if module else frozenset()


def tool_parsers() -> frozenset[str]:
    """The names of the installed vLLM's parsers of tool calls; none if vLLM is not installed."""
    return _keys("tool_parsers/__init__.py", "_TOOL_PARSERS_TO_REGISTER")


def templated_models() -> frozenset[str]:
    """The model types that the installed vLLM has a chat template for; none if vLLM is not installed."""
    return _keys("transformers_utils/chat_templates/registry.py", "_MODEL_TYPE_TO_CHAT_TEMPLATE_FALLBACK")


def _keys(module: str, table: str) -> frozenset[str]:
    """The strings that are keys of a dict in a module of vLLM; none if it cannot be read."""
    package = _package()
    tree = _parse(package / module) if package else None
    for node in tree.body if tree else ():
        match node:
            case ast.Assign([ast.Name(name)], ast.Dict(keys)) | ast.AnnAssign(ast.Name(name), _, ast.Dict(keys)):
                if name == table:
                    constants = (key.value for key in keys if isinstance(key, ast.Constant))
                    return frozenset(value for value in constants if isinstance(value, str))
    return frozenset()


def _typed(kind: str, name: str, value: Any, accepted: Accepted | None) -> Any:
    # Some engine defaults are None although their annotations do not allow it.
    if accepted is None or accepted.takes(value) or (value is None and kind == "engine"):
        return value
    read = accepted.read(value) if kind == "engine" else value
    if accepted.takes(read):
        return read
    text = json.dumps(value)
    said = text if len(text) <= 60 else f"{text[:60]}..."
    is_text = str in accepted.types and not isinstance(value, dict | list)
    hint = f" (quote a string twice: {name}='\"...\"')" if is_text else ""
    raise RequestError(f"--{kind} {name}: the vLLM installed here takes {accepted}, not {said}{hint}")


def _plain(origin: str, value: Any) -> Any:
    """The value as job.json will hold it: tuples and sets become lists. Raises RequestError."""
    try:
        return msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{origin} cannot be written into job.json: {error}") from None


def _package() -> Path | None:
    spec = find_spec("vllm")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _fields(module: ast.Module, class_name: str) -> dict[str, ast.expr]:
    """The annotations of a class's public fields, by name."""
    return {
        item.target.id: item.annotation
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }


@cache
def _parse(source: Path) -> ast.Module | None:
    try:
        return ast.parse(source.read_text(encoding="utf-8"))
    except (OSError, ValueError, SyntaxError):  # SyntaxError: written for a newer Python
        return None


def _accepted(annotation: ast.expr, module: ast.Module | None, package: Path, depth: int = 0) -> Accepted | None:
    """What an annotation accepts, None if it is not only JSON types and choices. ``depth``: imports followed."""
    match annotation:
        case ast.BinOp(left, ast.BitOr(), right):
            parts = [_accepted(side, module, package, depth) for side in (left, right)]
            return parts[0] | parts[1] if parts[0] and parts[1] else None
        case ast.Constant(None):
            return Accepted(frozenset({type(None)}))
        case ast.Name(name) if name in _TYPES:
            return Accepted(frozenset({_TYPES[name]}))
        case ast.Subscript(ast.Name("list" | "dict" as name)):
            return Accepted(frozenset({_TYPES[name]}))
        case ast.Subscript(ast.Name("Literal"), choices):
            listed = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            values = tuple(one.value for one in listed if isinstance(one, ast.Constant))
            return Accepted(values=values) if len(values) == len(listed) else None
        case ast.Name(name) if name.endswith("Config"):  # pydantic builds it from a dict, vLLM also from a level
            return Accepted(frozenset({int, dict}))
        case ast.Name(name) if module is not None and depth < _MOST_IMPORTS:
            return _named(name, module, package, depth)
    return None


def _named(name: str, module: ast.Module, package: Path, depth: int) -> Accepted | None:
    """What a name stands for: choices defined in this module, or in the vLLM module it is imported from."""
    for node in module.body:
        match node:
            case ast.Assign([ast.Name(target)], value) if target == name:
                return _accepted(value, None, package)
            case ast.AnnAssign(ast.Name(target), _, ast.expr() as value) if target == name:
                return _accepted(value, None, package)
            case ast.ImportFrom(str(origin), names, 0) if origin.startswith("vllm."):
                if any((one.asname or one.name) == name for one in names):
                    home = _parse(package.joinpath(*origin.split(".")[1:]).with_suffix(".py"))
                    return _accepted(ast.Name(name), home, package, depth + 1) if home else None
    return None
