"""Reads Python files without running them: their text, and what it defines."""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vllm_hpc.spec.errors import RequestError

# More than anybody writes; parsing takes a second and 100 MB for each MiB.
MOST_BYTES = 4 << 20


class Source(NamedTuple):
    """A Python file that was parsed.

    ``package``: what its relative imports begin at, empty outside of a package. ``folder``: where its imports are
    looked for after sys.path, as on the ranks.
    """

    path: Path
    tree: ast.Module
    package: str
    folder: str


def parse(content: bytes, path: Path) -> ast.Module:
    """The syntax tree of a file. Raises RequestError, with file and line."""
    tree: ast.Module = _compile(content, path, ast.PyCF_ONLY_AST)
    return tree


def check_syntax(content: bytes, path: Path) -> None:
    """Refuse a file that Python would not run. Raises RequestError, with file and line."""
    _compile(content, path, 0)


def _compile(content: bytes, path: Path, flags: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes, which Python gives again when it runs the file
            return compile(content, str(path), "exec", flags, dont_inherit=True)
    except SyntaxError as error:
        raise RequestError(f"{path}:{error.lineno or 1}: no valid Python: {error.msg}: correct it") from None
    except ValueError as error:  # NUL
        raise RequestError(f"{path}: no valid Python: {error}: correct it") from None
    except (RecursionError, MemoryError):
        raise RequestError(f"{path}: it is nested too deeply for Python: simplify it") from None


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module or a class, also those under if, try and with, in their order."""
    todo = body[::-1]
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, ast.If | ast.Try | ast.With):
            inside = [*node.body, *(one for handler in getattr(node, "handlers", []) for one in handler.body)]
            inside += [one for part in ("orelse", "finalbody") for one in getattr(node, part, [])]
            todo += inside[::-1]


def defined(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """The names that a module or a class defines, with the last statement that does."""
    return {name: node for node in statements(body) for name in _names(node)}


def _names(node: ast.stmt) -> list[str]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return [node.name]
        case ast.Assign():
            return [target.id for target in node.targets if isinstance(target, ast.Name)]
        case ast.AnnAssign(target=ast.Name() as target, value=value) if value is not None:
            return [target.id]
        case ast.ImportFrom():
            return [alias.asname or alias.name for alias in node.names]
        case ast.Import():
            return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    return []


def value_of(node: ast.stmt) -> ast.expr | None:
    """What a statement assigns; None if it assigns nothing."""
    return node.value if isinstance(node, ast.Assign | ast.AnnAssign) else None


def yields(function: ast.FunctionDef) -> bool:
    """Whether calling a function only makes a generator, of which nothing runs."""
    todo: list[ast.AST] = list(function.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            todo += ast.iter_child_nodes(node)
    return False
