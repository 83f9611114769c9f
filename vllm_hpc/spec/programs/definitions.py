"""Follows a name to the class or function that it stands for, through assignments and imports, without importing."""

from __future__ import annotations

import ast
from typing import NamedTuple

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.programs.modules import find_import
from vllm_hpc.spec.programs.read_code import read_source
from vllm_hpc.spec.programs.source import Source, defined, parse, statements, value_of

Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Imports and assignments on the way to a definition: more are a circle.
_MOST_STEPS = 20


class Found(NamedTuple):
    """A class or function, and the file that it is in."""

    source: Source
    node: Definition


def find_definition(source: Source, name: str, steps: int = _MOST_STEPS) -> Found | None:
    """What ``name`` stands for in a file; None if that is not a class or function whose source is found here."""
    if steps == 0:
        return None
    node = defined(source.tree.body).get(name)
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return Found(source, node)
        case ast.Assign() | ast.AnnAssign():
            return find_expression(source, value_of(node), steps - 1)
        case ast.ImportFrom():
            original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
            return _in_module(source, _module_of(source, node), original, steps - 1)
        case None:
            return _from_everything(source, name, steps - 1)
    return None


def find_expression(source: Source, value: ast.expr | None, steps: int = _MOST_STEPS) -> Found | None:
    """The class or function that an expression names: NAME, module.NAME, or either with [parameters]."""
    match value:
        case ast.Name(id=name):
            return find_definition(source, name, steps)
        case ast.Subscript(value=inside):
            return find_expression(source, inside, steps)
        case ast.Attribute(value=inside, attr=name):
            module = _imported_module(source, inside)
            return _in_module(source, module, name, steps) if module else None
    return None


def _from_everything(source: Source, name: str, steps: int) -> Found | None:
    """A name that only ``from module import *`` can have brought."""
    for node in statements(source.tree.body):
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
            found = _in_module(source, _module_of(source, node), name, steps)
            if found is not None:
                return found
    return None


def _module_of(source: Source, node: ast.ImportFrom) -> str:
    """The absolute name of the module that a statement imports from; empty outside of a package."""
    if not node.level:
        return node.module or ""
    parts = source.package.split(".") if source.package else []
    kept = parts[: len(parts) - node.level + 1]
    return ".".join([*kept, *([node.module] if node.module else [])]) if kept else ""


def _imported_module(source: Source, value: ast.expr) -> str | None:
    """The module that an expression such as ``package.module`` names; None if it is none that was imported."""
    parts: list[str] = []
    while isinstance(value, ast.Attribute):
        parts.insert(0, value.attr)
        value = value.value
    if not isinstance(value, ast.Name):
        return None
    node = defined(source.tree.body).get(value.id)
    if isinstance(node, ast.Import):
        alias = next(one for one in node.names if value.id in (one.asname, one.name.partition(".")[0]))
        return ".".join([alias.name if alias.asname else value.id, *parts])
    if isinstance(node, ast.ImportFrom):
        original = next(one.name for one in node.names if value.id in (one.asname, one.name))
        return ".".join(filter(None, [_module_of(source, node), original, *parts]))
    return None


def _in_module(source: Source, module: str, name: str, steps: int) -> Found | None:
    found = find_import(module, source.folder) if module and steps > 0 else None
    if found is None:
        return None
    try:
        tree = parse(read_source(found.file), found.file)
    except (OSError, RequestError):  # as good as not there
        return None
    return find_definition(Source(found.file, tree, found.package, source.folder), name, steps)
