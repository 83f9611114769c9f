"""Jinja's sandbox for prompt templates, in which a text can neither run for minutes nor take gigabytes.

The template is the user's own, but a job.toml may come from someone else, and a mistake must not stop a login node.
jinja2.sandbox keeps a template from Python's internals; its size and its time are limited here: by the loops' steps, by
the sizes of values, and by leaving out whatever can make much of little.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context, LoopContext, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_environment
from jinja2.visitor import NodeTransformer

# Characters of a prompt, and of any value on the way to it: vLLM's longest contexts are a few million tokens.
MOST_CHARACTERS = 16 << 20
# Steps of all loops together, and seconds, of one row.
MOST_STEPS = 1_000_000
MOST_SECONDS = 20.0
_TOO_LARGE = f"it makes more than {MOST_CHARACTERS >> 20} Mi characters"
# Bits of a whole number.
_MOST_BITS = 4096

# Statements and expressions that a prompt needs. Macros and blocks can call themselves, {% set %}...{% endset %} and
# {% filter %} make text that is not counted.
_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.With)
_WRITTEN = {
    nodes.AssignBlock: "set NAME", nodes.FilterBlock: "filter", nodes.For: "for ... recursive",
    nodes.FromImport: "from", nodes.CallBlock: "call",
}  # fmt: skip
_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr",
    "sort", "string", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
_METHODS: dict[type, frozenset[str]] = {
    str: frozenset(
        {"capitalize", "casefold", "count", "endswith", "find", "isalpha", "isdigit", "isspace", "lower", "lstrip"}
        | {"removeprefix", "removesuffix", "replace", "rfind", "rsplit", "rstrip", "split", "splitlines", "startswith"}
        | {"strip", "title", "upper", "join"}
    ),
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    LoopContext: frozenset({"changed", "cycle"}),
}


class NullField(StrictUndefined):
    """A field that is null: false in a condition, and an error where its text is needed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # StrictUndefined's never returns
        return False


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. ``begin`` before each row; for one thread at a time."""

    intercepted_binops = frozenset({"*", "+", "%", "**"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined, keep_trailing_newline=True, optimized=False, finalize=self._finalize
        )
        self.globals = {"range": self.globals["range"], "dict": dict}
        self.filters = {name: self._weighed(FILTERS[name]) for name in _FILTERS}
        self.filters |= {"join": self._join, "replace": self._replace, "tojson": self._tojson}
        self.filters |= {_COUNTED: self._counted, _KEPT: self._kept, _JOINED: self._joined}
        self.tests["none"] = lambda value: value is None or isinstance(value, NullField)
        self.begin()

    def begin(self) -> None:
        """Start the limits of one row."""
        self._steps, self._until = 0, time.monotonic() + MOST_SECONDS

    def parse_template(self, text: str) -> nodes.Template:
        """The tree of a template, with the checks of its loops and values. Raises jinja2's TemplateError."""
        tree = self.parse(text)
        for node in tree.find_all(nodes.Stmt):
            if not isinstance(node, _STATEMENTS) or (isinstance(node, nodes.For) and node.recursive):
                name = _WRITTEN.get(type(node), type(node).__name__.lower())
                raise SecurityError(f"{{% {name} %}} on line {node.lineno} cannot be used: only if, for, set and with")
        found: nodes.Template = _Checks(self).visit(tree)
        return found

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of an object before a method of the same name."""
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja2
        """Call one of the methods that a prompt needs. Raises SecurityError for all others."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        methods = next((allowed for kind, allowed in _METHODS.items() if isinstance(owner, kind)), frozenset())
        if __obj not in __self.globals.values() and name not in methods:
            raise SecurityError(f"{name or 'that'} cannot be called")
        if isinstance(owner, str) and name == "join":
            return __self._joined(args[0], owner)
        if isinstance(owner, str) and name == "replace":
            return __self._replace(owner, *args)
        return __self._weigh(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, unless the result would be huge."""
        if operator == "%" and isinstance(left, str):
            raise SecurityError("a text cannot be formatted with %: use ~")
        if operator in ("*", "**") and not all(isinstance(one, int | float) for one in (left, right)):
            raise SecurityError("a text cannot be repeated with *")
        if operator == "**" and isinstance(left, int) and isinstance(right, int):
            self._check(left.bit_length() * abs(right) <= _MOST_BITS)
        if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
            self._check(len(left) + len(right) <= MOST_CHARACTERS)
        result = super().call_binop(context, operator, left, right)
        self._check(not isinstance(result, int) or result.bit_length() <= _MOST_BITS)
        return result

    def _check(self, is_small: bool) -> None:
        if not is_small:
            raise SecurityError(_TOO_LARGE)

    def _step(self) -> None:
        self._steps += 1
        if self._steps > MOST_STEPS or time.monotonic() > self._until:
            raise SecurityError(f"its loops take more than {MOST_STEPS:,} steps or {MOST_SECONDS:g} s")

    def _weigh(self, value: Any) -> Any:
        """The value, if its text is not huge; what stands in it twice counts twice."""
        if isinstance(value, str):
            self._check(len(value) <= MOST_CHARACTERS)
            return value
        size, items, left = 0, 0, [value]
        while left:
            one = left.pop()
            items += 1
            size += len(one) if isinstance(one, str) else 1
            self._check(size <= MOST_CHARACTERS and items <= MOST_STEPS)
            if isinstance(one, dict):
                left += [*one.keys(), *one.values()]
            elif isinstance(one, list | tuple):
                left += one
        return value

    def _weighed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            for one in (*args, *kwargs.values()):
                if isinstance(one, str | dict | list | tuple):
                    self._weigh(one)
            return self._weigh(function(*args, **kwargs))

        return checked

    def _finalize(self, value: Any) -> Any:
        """A printed value as text. Raises UndefinedError for one that has none."""
        if isinstance(value, str | Undefined):
            return value
        if value is None:
            raise UndefinedError("a value that it writes is null")
        if not isinstance(value, int | float | list | tuple | dict):
            raise UndefinedError(f"a value that it writes is a {type(value).__name__}: use |list or |join, or call it")
        return str(self._weigh(value))

    def _counted(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self._step()
            yield value

    def _kept(self, value: Any) -> Any:
        return self._weigh(value)

    def _joined(self, values: Iterable[Any], separator: str = "") -> str:
        texts: list[str] = []
        size = 0
        for value in values:
            texts.append(str(self._finalize(value)))
            size += len(texts[-1]) + len(separator)
            self._check(size <= MOST_CHARACTERS)
        return separator.join(texts)

    @property
    def _join(self) -> Callable[..., str]:
        @pass_environment
        def join(environment: Sandbox, values: Iterable[Any], d: str = "", attribute: Any = None) -> str:
            chosen = values if attribute is None else map(make_attrgetter(environment, attribute), values)
            return self._joined(chosen, str(d))

        return join

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        whole = str(text)
        times = whole.count(old) if count < 0 else min(count, whole.count(old))
        self._check(len(whole) + times * len(new) <= MOST_CHARACTERS)
        return whole.replace(old, new, count)

    def _tojson(self, value: Any, indent: int | None = None) -> str:
        # Not Jinja's own, which writes < and ' so that they can stand in HTML.
        self._check(indent is None or 0 <= indent <= 8)
        return str(self._weigh(json.dumps(self._weigh(value), ensure_ascii=False, indent=indent)))


_COUNTED, _KEPT, _JOINED = "counted ", "kept ", "joined "  # with a space: no template can name them


class _Checks(NodeTransformer):
    """Puts the sandbox's checks around what loops go over, what variables are set to, and what ``~`` joins."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        node.iter = self._filtered(cast(nodes.Expr, node.iter), _COUNTED)
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Assign:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        node.node = self._filtered(cast(nodes.Expr, node.node), _KEPT)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802 - jinja2 looks for this name
        self.generic_visit(node)
        return self._filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Filter:
        made = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        made.set_environment(self._sandbox)
        return made
