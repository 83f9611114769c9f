"""Prompts made by --prompt-template: a Jinja text over the fields of a row, such as ``Summarise: {{ abstract }}``."""

from __future__ import annotations

import re
from typing import Any

from jinja2 import TemplateError, meta
from jinja2.exceptions import TemplateSyntaxError

from vllm_hpc.rows.missing_prompt import some_names
from vllm_hpc.rows.row import Row, RowError, first_line
from vllm_hpc.rows.sandbox import NullField, Sandbox, if_absent
from vllm_hpc.spec.errors import RequestError

OPTION = "--prompt-template"
# All fields of a row, for names that are no identifiers: {{ row["Question text"] }}.
ROW = "row"
_UNDEFINED = re.compile(r"'(?P<name>.+)' is undefined")
# Python's names for our own functions, in what it says of their arguments.
_OWN = re.compile(r"\bFilters\.(\w+\.<locals>\.)?_?")


class PromptTemplate:
    """A compiled template. ``names``: the fields that it uses. Raises RequestError if it does not compile."""

    def __init__(self, text: str) -> None:
        self._sandbox = Sandbox()
        try:
            tree = self._sandbox.parse_template(text)
            self.names = frozenset(meta.find_undeclared_variables(tree)) - self._sandbox.globals.keys()
            self._template = self._sandbox.from_string(tree)
        except TemplateSyntaxError as error:
            raise RequestError(f"{OPTION}: {first_line(error)} (line {error.lineno} of the template)") from None
        except TemplateError as error:
            raise RequestError(f"{OPTION}: {first_line(error)}") from None
        except (RecursionError, MemoryError, SyntaxError, OverflowError) as error:  # by Python, which compiles it
            raise RequestError(f"{OPTION} is nested too deeply ({first_line(error)}): make it simpler") from None
        except ValueError:
            raise RequestError(f"{OPTION} has a number of more than 4300 digits: write it as a text") from None
        if not self.names:
            raise RequestError(f"{OPTION} names no field: write {{{{ NAME }}}}, or use --prompt-column NAME")

    def render(self, fields: Row, empty: Any = None) -> str:
        """The prompt of a row with these fields; ``empty`` is the content of a field without a value, beside null.

        Raises RowError for whatever the template raises.
        """
        if empty is not None:
            fields = {name: None if value == empty else value for name, value in fields.items()}
        values: Row = {ROW: fields, **fields}
        what = "null" if empty is None else "empty"
        for name in self.names & fields.keys():
            if fields[name] is None:
                values[name] = NullField(
                    f"the field {name!r} is {what}: write {{{{ {name} or '' }}}}, or {{% if {name} %}}"
                )
        self._sandbox.limits.begin()
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
            self._sandbox.limits.fits(size)
        return "".join(texts)

    def _explain(self, error: Exception, fields: Row) -> str:
        missing = _UNDEFINED.fullmatch(str(error))
        if missing is None or missing["name"] in fields:
            return _OWN.sub("", first_line(error))
        name = missing["name"]
        return f"no field {name!r}, only {some_names(fields)}: {if_absent(name)}"
