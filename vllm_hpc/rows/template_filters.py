"""The filters, tests and methods of prompt templates: Jinja's and Python's own, each within the limits of a row."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any, cast

from jinja2 import Undefined
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import LoopContext
from jinja2.tests import TESTS
from jinja2.utils import pass_environment

from vllm_hpc.rows.template_limits import Limits

FILTER_NAMES = (
    "abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "groupby", "int", "items", "last",
    "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "select", "selectattr",
    "sort", "string", "title", "trim", "truncate", "unique", "upper", "wordcount",
)  # fmt: skip
# Those that write their value: of one that has no text, Python's name for it would be in the prompt.
_WRITING = frozenset({"capitalize", "lower", "string", "title", "trim", "upper", "wordcount"})
# Those that take a text apart.
_SPLITTING = frozenset(
    {"groupby", "list", "map", "max", "min", "reject", "rejectattr", "select", "selectattr", "sort", "title", "unique"}
    | {"wordcount"}
)
_TEST_NAMES = (
    "!=", "<", "<=", "==", ">", ">=", "boolean", "defined", "divisibleby", "eq", "equalto", "even", "false", "float",
    "ge", "greaterthan", "gt", "in", "integer", "iterable", "le", "lessthan", "lower", "lt", "mapping", "ne", "none",
    "number", "odd", "sameas", "sequence", "string", "true", "undefined", "upper",
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
_SEEKING = frozenset({"lstrip", "rfind", "rstrip", "strip"})
_LINE_ENDS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
_MOST_INDENT = 8

Function = Callable[..., Any]


class Filters:
    """Makes them for one template."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def filters(self) -> dict[str, Function]:
        """All filters by name."""
        own: dict[str, Function] = {"join": self._join, "replace": self._replace, "tojson": self._tojson}
        return {name: self._limited(name, FILTERS[name]) for name in FILTER_NAMES} | own

    def tests(self) -> dict[str, Function]:
        """All tests by name."""
        return {name: self._timed(cast(Function, TESTS[name])) for name in _TEST_NAMES}

    def method(self, function: Any) -> Function | None:
        """The method of a value that a template calls, within limits; None if it is not one of a value's.

        Raises SecurityError for a method that templates may not call.
        """
        owner, name = getattr(function, "__self__", None), getattr(function, "__name__", "")
        allowed = next((names for kind, names in _METHODS.items() if isinstance(owner, kind)), None)
        if allowed is None:
            return None
        if name not in allowed:
            raise SecurityError(f"{name} cannot be called: only {', '.join(sorted(allowed))}")
        return self._of_text(owner, name, function) if isinstance(owner, str) else self._made(function)

    def _of_text(self, text: str, name: str, function: Function) -> Function:
        def join(values: Iterable[Any], /) -> str:
            return self.joined(values, text)

        def replace(old: str, new: str, count: int = -1, /) -> str:
            return self._replace(text, old, new, count)

        def split(sep: str | None = None, maxsplit: int = -1) -> list[str]:
            return self._split(function, sep, maxsplit)

        own: dict[str, Function] = {"join": join, "replace": replace, "split": split, "rsplit": split}
        if name in own:
            return own[name]
        if name == "splitlines":
            self._limits.fits(0, sum(map(text.count, _LINE_ENDS)))
        if name in _SEEKING:
            return self._made(function, self._limits.sought)
        return self._made(function)

    def _made(self, function: Function, check: Callable[[Any], None] | None = None) -> Function:
        def made(*args: Any, **kwargs: Any) -> Any:
            self._limits.tick()
            if check is not None:
                for one in (*args, *kwargs.values()):
                    check(one)
            return self._limits.made(function(*args, **kwargs))

        return made

    def _timed(self, function: Function) -> Function:
        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._limits.tick()
            return function(*args, **kwargs)

        return timed

    def _limited(self, name: str, function: Function) -> Function:
        """One of Jinja's filters. Those that make one item after another are counted while they are read."""
        first = 1 if hasattr(function, "jinja_pass_arg") else 0

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            self._limits.tick()
            if name in _WRITING:
                args = (*args[:first], self.written(args[first]), *args[first + 1 :])
            self._check(name, *args[first:], **kwargs)
            result = function(*args, **kwargs)
            return self.counted(result) if isinstance(result, Iterator) else self._limits.made(result)

        return limited

    def _check(self, name: str, value: Any = None, /, *args: Any, **kwargs: Any) -> None:
        """Refuse what would take long, or make much, inside the filter."""
        if name in _SPLITTING:
            self._limits.split(value)
        elif name in ("int", "float"):
            self._limits.number(value)
        elif name == "round":
            self._limits.number(value)
            self._limits.places(kwargs.get("precision", args[0] if args else 0))
        elif name == "trim":
            self._limits.sought(kwargs.get("chars", args[0] if args else None))

    def counted(self, values: Iterable[Any]) -> Iterator[Any]:
        """The items of a loop."""
        for value in values:
            self._limits.step()
            yield value

    def written(self, value: Any) -> Any:
        """A printed value as text. Raises UndefinedError for one that has none."""
        if isinstance(value, str | Undefined):
            return value
        if value is None:
            raise UndefinedError("a value that it writes is null")
        if not isinstance(value, int | float | list | tuple | dict):
            raise UndefinedError(f"a value that it writes is a {type(value).__name__}: use |list or |join, or call it")
        return self._limits.made(str(self._limits.made(value)))

    def joined(self, values: Iterable[Any], separator: str = "") -> str:
        """Values as one text."""
        texts: list[str] = []
        size = 0
        for value in self.counted(values):
            texts.append(str(self.written(value)))
            size += len(texts[-1]) + len(separator)
            self._limits.fits(size)
        return self._limits.made(separator.join(texts))

    @property
    def _join(self) -> Function:
        @pass_environment
        def join(environment: Any, values: Iterable[Any], d: str = "", attribute: Any = None) -> str:
            chosen = values if attribute is None else map(make_attrgetter(environment, attribute), values)
            return self.joined(chosen, str(d))

        return join

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        whole = str(self.written(text))
        times = whole.count(old) if count < 0 else min(count, whole.count(old))
        self._limits.fits(len(whole) + times * len(new))
        return self._limits.made(whole.replace(old, new, count))

    def _split(self, function: Function, separator: str | None, most: int) -> list[str]:
        self._limits.sought(separator)
        parts: list[str] = function(separator, self._limits.cuts(most))
        return self._limits.made(parts)

    def _tojson(self, value: Any, indent: int | None = None) -> str:
        # Not Jinja's own, which writes < and ' so that they can stand in HTML.
        if indent is not None and not 0 <= indent <= _MOST_INDENT:
            raise SecurityError(f"tojson takes an indent from 0 to {_MOST_INDENT}")
        self._limits.made(value)
        if indent is None:
            return self._limits.made(json.dumps(value, ensure_ascii=False))
        # Each line of nested lists is indented, so that little may become much.
        texts, size = [], 0
        for text in json.JSONEncoder(ensure_ascii=False, indent=indent).iterencode(value):
            texts.append(text)
            size += len(text)
            self._limits.fits(size)
        return self._limits.made("".join(texts))
