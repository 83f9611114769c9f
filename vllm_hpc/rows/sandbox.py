"""Jinja's sandbox for prompt templates, in which a text can neither run for minutes nor take gigabytes.

The template is the user's own, but a job.toml may come from someone else, and a mistake must not stop a login node.
jinja2.sandbox keeps a template from Python's internals; its size and its time are limited here. A template has a short
list of statements, filters, tests and methods, and all that makes a value goes through ``Limits``: what filters and
methods give (``Filters``), what operators compute, what loops go over, and the lists that are written in it.
"""

from __future__ import annotations

import math
from typing import Any, cast

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateAssertionError
from jinja2.runtime import Context, StrictUndefined, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context
from jinja2.visitor import NodeTransformer

from vllm_hpc.rows.missing_prompt import some_names
from vllm_hpc.rows.template_filters import Filters
from vllm_hpc.rows.template_limits import MOST_NODES, Limits
from vllm_hpc.spec.words import counted

# Statements and expressions that a prompt needs. Macros and blocks can call themselves, {% set %}...{% endset %} and
# {% filter %} make text that is not counted.
_STATEMENTS = (nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Assign, nodes.With)
_WRITTEN: dict[type[nodes.Node], str] = {
    nodes.AssignBlock: "set NAME", nodes.FilterBlock: "filter", nodes.For: "for ... recursive",
    nodes.FromImport: "from", nodes.CallBlock: "call", nodes.Scope: "autoescape",
}  # fmt: skip
_COUNTED, _MADE, _HELD, _TIMED, _JOINED = "counted ", "made ", "held ", "timed ", "joined "  # no template names them


class NullField(StrictUndefined):
    """A field that is null: false in a condition, and an error where its text is needed."""

    __slots__ = ()

    def __bool__(self) -> bool:  # type: ignore[override]  # StrictUndefined's never returns
        return False


class Missing(StrictUndefined):
    """A field that is not there: an error where it is used, which names what is there."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        name, within = self._undefined_name, self._undefined_obj
        if self._undefined_hint or not isinstance(within, dict | list):
            return super()._undefined_message
        if isinstance(within, list):
            return f"a list of {counted(len(within), 'item')} has no item {name!r}: {if_absent('NAME[0]')}"
        return f"no field {name!r} in an object that has {some_names(within)}: {if_absent(f'NAME.{name}')}"


def if_absent(name: str) -> str:
    """How a template takes a field that some rows do not have."""
    return f'for rows without it write {{{{ {name} | default("") }}}}, or {{% if {name} is defined %}}'


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template. ``limits.begin`` before each row; for one thread at a time."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self) -> None:
        self.limits = Limits()
        allowed = Filters(self.limits)

        @pass_context  # so that constants, too, are computed with a row, and not without limits when it is compiled
        def written(_: Context, value: Any) -> Any:
            return allowed.written(value)

        super().__init__(undefined=Missing, keep_trailing_newline=True, optimized=False, finalize=written)
        self._method = allowed.method
        self.globals = {"range": self.globals["range"], "dict": dict}
        self.filters: dict[str, Any] = allowed.filters()
        self.tests: dict[str, Any] = allowed.tests()
        self._names = {nodes.Filter: ("filter", sorted(self.filters)), nodes.Test: ("test", sorted(self.tests))}
        self.filters |= {_COUNTED: allowed.counted, _JOINED: allowed.joined}
        self.filters |= {_MADE: self.limits.made, _HELD: self.limits.held, _TIMED: self._timed}
        self.tests["none"] = lambda value: value is None or isinstance(value, NullField)

    def parse_template(self, text: str) -> nodes.Template:
        """The tree of a template, with the checks of its loops and values. Raises jinja2's TemplateError."""
        tree = self.parse(text)
        for count, node in enumerate(tree.find_all((nodes.Stmt, nodes.Expr))):
            if count == MOST_NODES:
                raise SecurityError(f"it has more than {MOST_NODES:,} statements and expressions: use loops")
            self._check_statement(node) if isinstance(node, nodes.Stmt) else self._check_name(node)
        found: nodes.Template = _Checks(self).visit(tree)
        return found

    def _check_statement(self, node: nodes.Node) -> None:
        if not isinstance(node, _STATEMENTS) or (isinstance(node, nodes.For) and node.recursive):
            name = _WRITTEN.get(type(node), type(node).__name__.lower())
            line = node.lineno or next(inner.lineno for inner in node.find_all(nodes.Node) if inner.lineno)
            raise SecurityError(f"{{% {name} %}} on line {line} cannot be used: only if, for, set and with")

    def _check_name(self, node: nodes.Node) -> None:
        """Refuse a filter or a test that a template cannot have, also where it would not be reached."""
        if isinstance(node, nodes.Const) and isinstance(node.value, float) and not math.isfinite(node.value):
            raise TemplateAssertionError("a number is too large", node.lineno)
        if not isinstance(node, nodes.Filter | nodes.Test):
            return
        kind, names = self._names[type(node)]
        if node.name not in names:
            raise TemplateAssertionError(f"No {kind} named {node.name!r}, only {', '.join(names)}", node.lineno)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A field of an object before a method of the same name."""
        return obj[attribute] if isinstance(obj, dict) and attribute in obj else super().getattr(obj, attribute)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as in jinja2
        """Call one of the methods that a prompt needs. Raises SecurityError for all others."""
        if method := __self._method(__obj):
            return super().call(__context, method, *args, **kwargs)
        if not isinstance(__obj, Undefined) and not any(__obj is one for one in __self.globals.values()):
            raise SecurityError(f"{getattr(__obj, '__name__', 'that')} cannot be called: only methods, range and dict")
        return __self.limits.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute with numbers, or join two texts or lists. Raises SecurityError where the result would be huge."""
        self.limits.tick()
        both = (left, right)
        if any(isinstance(one, Undefined) for one in both):
            return super().call_binop(context, operator, left, right)  # which says what is undefined
        if all(isinstance(one, int | float) for one in both):
            return self._computed(context, operator, left, right)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("a text cannot be formatted with %: use ~")
        if operator == "*":
            raise SecurityError("a text cannot be repeated with *")
        if operator != "+" or isinstance(left, dict):
            raise SecurityError(f"{operator} needs two numbers")
        if isinstance(left, str | list | tuple) and type(left) is type(right):
            self.limits.fits(len(left) + len(right))
        return self.limits.made(super().call_binop(context, operator, left, right))

    def _computed(self, context: Context, operator: str, left: float, right: float) -> Any:
        self.limits.number(left)
        self.limits.number(right)
        if operator == "**":
            self.limits.power(left, right)
        result = super().call_binop(context, operator, left, right)
        self.limits.number(result)
        return result

    def _timed(self, value: Any) -> Any:
        self.limits.tick()
        return value


class _Checks(NodeTransformer):
    """Puts the sandbox's checks around what loops go over, lists, slices and comparisons, and what ``~`` joins.

    Other expressions only give values that exist, or are called through the environment.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802 - jinja2 looks for these names
        self.generic_visit(node)
        node.iter = self._filtered(cast(nodes.Expr, node.iter), _COUNTED)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, _HELD)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, _HELD)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, _HELD) if node.ctx == "load" else node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, _MADE) if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return self._filtered(node, _TIMED)

    def _filtered(self, node: nodes.Expr, name: str) -> nodes.Filter:
        made = nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)
        made.set_environment(self._sandbox)
        return made
