"""Prompts made by --prompt-template: a Jinja text over the fields of a row, such as ``Summarise: {{ abstract }}``."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.exceptions import TemplateSyntaxError

from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.rows.sandbox import MOST_CHARACTERS, NullField, Sandbox
from vllm_hpc.spec.errors import RequestError

OPTION = "--prompt-template"
# All fields of a row, for names that are no identifiers: {{ row["Question text"] }}.
ROW = "row"
_UNDEFINED = re.compile(r"'(?P<name>.+)' is undefined")
_MOST_NAMES = 8


class PromptTemplate:
    """A compiled template. ``names``: the fields that it uses. Raises RequestError if it does not compile."""

    def __init__(self, text: str) -> None:
        self._sandbox = Sandbox()
        try:
            tree = self._sandbox.parse_template(text)
            self.names = frozenset(meta.find_undeclared_variables(tree)) - self._sandbox.globals.keys()
            self._template = self._sandbox.from_string(tree)
        except TemplateSyntaxError as error:
            raise RequestError(f"{OPTION}: {_first_line(error)} (line {error.lineno} of the template)") from None
        except (TemplateError, RecursionError, SyntaxError, OverflowError) as error:
            raise RequestError(f"{OPTION}: {_first_line(error)}") from None
        if not self.names:
            raise RequestError(f"{OPTION} names no field: write {{{{ NAME }}}}, or use --prompt-column NAME")

    def render(self, fields: Row) -> str:
        """The prompt of a row with these fields. Raises RowError for whatever the template raises."""
        values: Row = {ROW: fields, **fields}
        for name in self.names & fields.keys():
            if fields[name] is None:
                values[name] = NullField(
                    f"the field {name!r} is null: write {{{{ {name} or '' }}}}, or {{% if {name} %}}"
                )
        self._sandbox.begin()
        try:
            prompt = self._join(values)
        except Exception as error:  # noqa: BLE001 - a template can raise anything that Python can
            raise RowError(f"{OPTION}: {self._explain(error, fields)}") from None
        if not prompt.strip():
            raise RowError(f"{OPTION} gives an empty prompt")
        return prompt

    def _join(self, values: dict[str, Any]) -> str:
        texts, size = [], 0
        for text in self._template.generate(values):
            texts.append(text)
            size += len(text)
            if size > MOST_CHARACTERS:
                raise RowError(f"the prompt has more than {MOST_CHARACTERS >> 20} Mi characters")
        return "".join(texts)

    def _explain(self, error: Exception, fields: Row) -> str:
        missing = _UNDEFINED.fullmatch(str(error))
        if missing is None or missing["name"] in fields:
            return _first_line(error)
        names = ", ".join(repr(name) for name in list(fields)[:_MOST_NAMES])
        more = " ..." if len(fields) > _MOST_NAMES else ""
        return f"no field {missing['name']!r}, only {names}{more}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
