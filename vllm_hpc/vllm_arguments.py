"""vLLM's arguments and the types of their values, read from its source where it is installed.

Nothing is imported: that takes 10 s. A value of another type would end the job on its nodes, after its time in a queue.
"""

from __future__ import annotations

import ast
import difflib
import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from vllm_hpc.errors import RequestError

_HOMES = {
    "engine": ("engine/arg_utils.py", "EngineArgs"),
    "sampling": ("sampling_params.py", "SamplingParams"),
}
# Type of an annotation -> what a value of it is called. What is in lists and dicts is not looked at.
_NAMES: dict[type, str] = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", list: "a list", dict: "a JSON object",
}  # fmt: skip
# The engine's configurations read numbers out of text, SamplingParams does not.
_NUMERALS = {int: r"[+-]?\d+", float: r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"}
_TYPES = {kind.__name__: kind for kind in _NAMES}


class Accepted(msgspec.Struct, frozen=True):
    """What an argument takes, besides null: values of some types, and others by themselves."""

    types: frozenset[type] = frozenset()
    values: tuple[Any, ...] = ()

    def __or__(self, other: Accepted) -> Accepted:
        return Accepted(self.types | other.types, self.values + other.values)

    def takes(self, value: Any, reads_text: bool) -> bool:
        """Whether it does. True and false are 1 and 0, whole numbers are numbers; texts of one with ``reads_text``."""
        if value is None or value in self.values:
            return True
        if reads_text and isinstance(value, str):
            return str in self.types or any(re.fullmatch(_NUMERALS.get(kind, r"$^"), value) for kind in self.types)
        types = set(self.types)
        if float in types:
            types.add(int)
        if value in (0, 1) and types & {bool, int}:
            types |= {bool, int}
        return type(value) in types

    def __str__(self) -> str:
        words = [name for kind, name in _NAMES.items() if kind in self.types]
        return " or ".join(words + ([f"one of {', '.join(map(str, self.values))}"] if self.values else []))


def check_arguments(kind: str, given: dict[str, Any]) -> None:
    """Refuse what the installed vLLM does not take; without one, the ranks will. Raises RequestError.

    ``kind`` is "engine" for fields of vLLM's EngineArgs, "sampling" for those of SamplingParams.
    """
    package = _package() if given else None
    module = _parse(package / _HOMES[kind][0]) if package else None
    known = _fields(module, _HOMES[kind][1]) if module else {}
    for name, value in given.items() if known else ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"see vLLM's {_HOMES[kind][1]}"
            raise RequestError(f"--{kind} {name!r} is no argument of the vLLM that is installed here: {hint}")
        assert package is not None
        accepted = _accepted(known[name], module, package)
        if accepted is not None and not accepted.takes(value, reads_text=kind == "engine"):
            said = f"the vLLM that is installed here takes {accepted}, not {_said(value)}"
            is_text = str in accepted.types and not isinstance(value, dict | list)
            hint = f" (as text: {name}='{json.dumps(_said(value))}')" if is_text else ""
            raise RequestError(f"--{kind} {name}: {said}{hint}")


def _said(value: Any) -> str:
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _package() -> Path | None:
    spec = find_spec("vllm")
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def _fields(module: ast.Module, class_name: str) -> dict[str, ast.expr]:
    """The annotations of a class's public fields, by their names."""
    return {
        item.target.id: item.annotation
        for node in module.body
        if isinstance(node, ast.ClassDef) and node.name == class_name
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and not item.target.id.startswith("_")
    }


@cache
def _parse(source: Path) -> ast.Module | None:
    return ast.parse(source.read_text(encoding="utf-8")) if source.is_file() else None


def _accepted(annotation: ast.expr, module: ast.Module | None, package: Path) -> Accepted | None:
    """What an annotation says, None where it says more than types of JSON and choices."""
    match annotation:
        case ast.BinOp(left, ast.BitOr(), right):
            parts = [_accepted(side, module, package) for side in (left, right)]
            return parts[0] | parts[1] if parts[0] and parts[1] else None
        case ast.Constant(None):
            return Accepted()
        case ast.Name(name) if name in _TYPES:
            return Accepted(frozenset({_TYPES[name]}))
        case ast.Subscript(ast.Name("list" | "dict" as name)):
            return Accepted(frozenset({_TYPES[name]}))
        case ast.Subscript(ast.Name("Literal"), choices):
            listed = choices.elts if isinstance(choices, ast.Tuple) else [choices]
            values = tuple(one.value for one in listed if isinstance(one, ast.Constant))
            return Accepted(values=values) if len(values) == len(listed) else None
        case ast.Name(name) if module is not None:
            return _named(name, module, package)
    return None


def _named(name: str, module: ast.Module, package: Path) -> Accepted | None:
    """What a name stands for: a choice of values, in this module or in that of vLLM which it is imported from."""
    for node in module.body:
        match node:
            case ast.Assign([ast.Name(target)], value) if target == name:
                return _accepted(value, None, package)
            case ast.AnnAssign(ast.Name(target), _, ast.expr() as value) if target == name:
                return _accepted(value, None, package)
            case ast.ImportFrom(str(origin), names, 0) if origin.startswith("vllm."):
                if any((one.asname or one.name) == name for one in names):
                    home = _parse(package.joinpath(*origin.split(".")[1:]).with_suffix(".py"))
                    return _named(name, home, package) if home else None
    return None
