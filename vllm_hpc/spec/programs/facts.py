"""What a job must know of a program before it runs: whether it drives the engine, and whether it needs hooks.

From its source, or from an object in a notebook. Ranks compare both with what they have loaded.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import msgspec

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.programs.definitions import Found, find_expression
from vllm_hpc.spec.programs.source import defined, statements, value_of, yields

# The methods of a program, and what each is called with after self.
METHODS = {"setup": ("ctx",), "on_output": ("ctx", "row"), "teardown": ("ctx",), "run": ("ctx",)}
NEEDS_HOOKS = "needs_hooks"
_HAS_NONE = "it has none of setup(ctx), on_output(ctx, row), teardown(ctx) and run(ctx): write the ones you need"
_BOTH = "it has run, which drives the engine itself, and so no on_output: leave out one"
# Bases of a class, and how deep they go: more are a circle, or nobody's.
_MOST_BASES, _DEEPEST = 1000, 50
MUST_BE_BOOL = f"{NEEDS_HOOKS} must be True or False, written out in the class"


class Facts(msgspec.Struct, frozen=True):
    """``drives_engine``: it has run, or is a function. ``needs_hooks``: it asks for eager mode."""

    drives_engine: bool
    needs_hooks: bool


class _Class(NamedTuple):
    """A class in the order in which Python looks for attributes; ``found`` None: its source is not here."""

    name: str
    found: Found | None


def facts_of_function(found: Found, name: str) -> Facts:
    """The facts of ``fn(ctx)``, which may have needs_hooks set: ``fn.needs_hooks = True``. Raises RequestError."""
    node = found.node
    where = f"{found.source.path}:{node.lineno}: {name}"
    if isinstance(node, ast.AsyncFunctionDef) or (isinstance(node, ast.FunctionDef) and yields(node)):
        raise RequestError(f"{where} must be a plain function, neither async nor a generator")
    assert isinstance(node, ast.FunctionDef)
    if not node.decorator_list and not _takes(node.args, 1):
        raise RequestError(f"{where} must be a function of one argument: def {name}(ctx)")
    return Facts(True, bool(_hooks_set_on(found, name, where)))


def facts_of_class(found: Found, name: str) -> Facts:
    """The facts of a class, from its body and those of its bases. Raises RequestError."""
    order = list(_in_order(found))
    where = f"{found.source.path}:{found.node.lineno}: {name}"
    _check_init(order, where, name)
    has = {method: _has_method(order, method, where) for method in METHODS}
    hooks = _hooks_set_on(found, name, where)
    hooks = _needs_hooks(order, where) if hooks is None else hooks
    unknown = [one.name for one in order if one.found is None]
    if unknown and (has["run"] is None or hooks is None):
        raise RequestError(
            f"{where}: its base {unknown[0]} is not found here: write in the class itself {NEEDS_HOOKS} = True or "
            "False, and run(self, ctx), or run = None"
        )
    if not unknown and not any(has.values()):
        raise RequestError(f"{where}: {_HAS_NONE}")
    if has["run"] and has["on_output"]:
        raise RequestError(f"{where}: {_BOTH}")
    return Facts(bool(has["run"]), bool(hooks))


def facts_of_object(thing: object) -> Facts:
    """The facts of a class, an instance or a function that is there. Raises RequestError, without its name."""
    has = {method: callable(getattr(thing, method, None)) for method in METHODS}
    hooks = getattr(thing, NEEDS_HOOKS, False)
    if not isinstance(hooks, bool):
        raise RequestError(MUST_BE_BOOL)
    if callable(thing) and not isinstance(thing, type) and not any(hasattr(thing, method) for method in METHODS):
        return Facts(True, hooks)
    if not any(has.values()):
        raise RequestError(_HAS_NONE)
    if has["run"] and has["on_output"]:
        raise RequestError(_BOTH)
    return Facts(has["run"], hooks)


def _in_order(found: Found) -> Iterator[_Class]:
    """A class and its bases in the order in which Python looks: of one that is there twice, the last counts."""
    walked = list(islice(_walk(found, found.node.name, []), _MOST_BASES))
    keys = [(one.found.source.path, one.found.node.lineno) if one.found else one.name for one in walked]
    yield from (one for place, one in enumerate(walked) if keys[place] not in keys[place + 1 :])


def _walk(found: Found, name: str, above: list[ast.stmt]) -> Iterator[_Class]:
    yield _Class(name, found)
    node = found.node
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        text = ast.unparse(base)
        if isinstance(base, ast.Name) and hasattr(builtins, base.id) and base.id not in defined(found.source.tree.body):
            continue  # object, Exception: none of them has what is looked for
        below = find_expression(found.source, base)
        is_class = below is not None and isinstance(below.node, ast.ClassDef)
        if below is None or not is_class or below.node in above or len(above) > _DEEPEST:
            yield _Class(text, None)
        else:
            yield from _walk(below, text, [*above, node])


def _look_up(order: list[_Class], name: str) -> tuple[_Class, ast.stmt] | None:
    """The statement that defines an attribute, and whose; None if none does before a base that is not found."""
    for one in order:
        if one.found is None:
            return None
        node = one.found.node
        if isinstance(node, ast.ClassDef) and (statement := defined(node.body).get(name)) is not None:
            return one, statement
    return None


def _has_method(order: list[_Class], name: str, where: str) -> bool | None:
    """Whether the class has that method; None if it is in no class, or one that is not found may have it.

    Raises RequestError for one that cannot be called.
    """
    found = _look_up(order, name)
    if found is None:
        return None
    node = found[1]
    if isinstance(node, ast.AsyncFunctionDef) or (isinstance(node, ast.FunctionDef) and yields(node)):
        raise RequestError(f"{where}.{name} must be a plain method, neither async nor a generator")
    if isinstance(node, ast.FunctionDef):
        _check_method(node, name, where)
        return True
    value = value_of(node)
    if isinstance(value, ast.Constant) and value.value is not None:
        raise RequestError(f"{where}.{name} must be a method: {_signature(name)}; or None")
    if isinstance(value, ast.Lambda) and not _takes(value.args, 1 + len(METHODS[name])):
        raise RequestError(f"{where}.{name} must take {', '.join(('self', *METHODS[name]))}: {_signature(name)}")
    return not isinstance(value, ast.Constant)


def _signature(method: str) -> str:
    return f"def {method}({', '.join(('self', *METHODS[method]))})"


def _check_method(node: ast.FunctionDef, name: str, where: str) -> None:
    decorators = [one.id if isinstance(one, ast.Name) else "" for one in node.decorator_list]
    if "property" in decorators:
        raise RequestError(f"{where}.{name} must be a method, not a property: {_signature(name)}")
    if any(one not in ("staticmethod", "classmethod", "override") for one in decorators):
        return  # whatever it makes of it
    words = METHODS[name] if "staticmethod" in decorators else ("self", *METHODS[name])
    if not _takes(node.args, len(words)):
        raise RequestError(f"{where}.{name} must take {', '.join(words)}: def {name}({', '.join(words)})")


def _takes(arguments: ast.arguments, number: int) -> bool:
    """Whether a function can be called with so many positional arguments."""
    names = len(arguments.posonlyargs) + len(arguments.args)
    is_wanted = any(default is None for default in arguments.kw_defaults)
    return (
        names - len(arguments.defaults) <= number
        and (number <= names or arguments.vararg is not None)
        and not is_wanted
    )


def _check_init(order: list[_Class], where: str, name: str) -> None:
    needs = f"{where}: ranks call {name}() without arguments: give"
    for method in ("__new__", "__init__"):
        found = _look_up(order, method)
        node = found[1] if found else None
        if isinstance(node, ast.FunctionDef) and not node.decorator_list and not _takes(node.args, 1):
            raise RequestError(f"{needs} those of {method} defaults")
    if fields := _fields_without_default(order[0]):
        raise RequestError(f"{needs} {fields[0]!r} a default")


def _fields_without_default(one: _Class) -> list[str]:
    """Those of a data class, which its __init__ asks for."""
    node = one.found.node if one.found else None
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list] if node else []
    is_made = any("dataclass" in text and "init=False" not in text for text in decorators)
    if node is None or not is_made or "__init__" in defined(node.body):
        return []
    fields = (field for field in node.body if isinstance(field, ast.AnnAssign) and field.value is None)
    return [ast.unparse(field.target) for field in fields if "ClassVar" not in ast.unparse(field.annotation)]


def _needs_hooks(order: list[_Class], where: str) -> bool | None:
    found = _look_up(order, NEEDS_HOOKS)
    return None if found is None else _boolean(found[1], where)


def _hooks_set_on(found: Found, name: str, where: str) -> bool | None:
    """What ``NAME.needs_hooks = True`` below a class or a function says; None without that."""
    given: bool | None = None
    for one in statements(found.source.tree.body):
        if isinstance(one, ast.Assign) and any(_is_attribute(target, name) for target in one.targets):
            given = _boolean(one, where)
    return given


def _boolean(node: ast.stmt, where: str) -> bool:
    value = value_of(node)
    if not isinstance(value, ast.Constant) or not isinstance(value.value, bool):
        raise RequestError(f"{where}: {MUST_BE_BOOL}")
    return value.value


def _is_attribute(target: ast.expr, name: str) -> bool:
    return (
        isinstance(target, ast.Attribute)
        and target.attr == NEEDS_HOOKS
        and isinstance(target.value, ast.Name)
        and target.value.id == name
    )
