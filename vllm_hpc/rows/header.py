"""The header of a table: which column is which field."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import NamedTuple

from vllm_hpc.rows import notes
from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.likely import is_known, prompt_advice
from vllm_hpc.rows.missing_prompt import advice_for, some_names
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import Row, RowError
from vllm_hpc.spec.repeats import first_repeated

# Fields whose name may be written as people write it in a spreadsheet. Not ``task`` and ``lora``, which are rare, and
# words for data too.
_FORGIVEN = ("prompt", "messages", "id", "sampling", "tools", "chat_template_kwargs", CONVERSATIONS)
_PROMPTS = frozenset({"prompt", "messages", CONVERSATIONS})


# All fields of a row in a template (template.ROW).
_ROW = "row"
# A longer text, of characters or words, is rather data than the name of a column.
_LONGEST_NAME, _MOST_WORDS = 60, 6
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?")


class Header(NamedTuple):
    """The field of each column, and other names for fields: as the file spells them.

    None is a column without a name, whose cells must be empty.
    """

    fields: tuple[str | None, ...]
    aliases: dict[str, str]


def read_header(
    cells: list[str], reading: Reading, found: Notes, first_row: Callable[[], Row | None] | None = None
) -> Header:
    """The header with these cells. Raises RowError for one without a prompt, or with a repeated name.

    ``first_row`` reads what is below it, for advice, in a format whose columns always have names and may have objects
    and lists; without it the header is the first line of a text, and may be a row.
    """
    spelled = _spelled(cells, found)
    names = [name and reading.rename.get(name, name) for name in spelled]
    found.renamed |= reading.rename.keys() & set(spelled)
    row = "" if first_row else _if_a_row(names)
    if len(set(names)) < len(names) and row:
        raise RowError(f"{some_names(names)}: {row}")
    _check_once(names)
    fields = [name and own_name(name, names, reading) for name in names]
    _check_once(fields)
    named = [name for name in fields if name]
    _check_prompt(named, reading, "" if first_row else _if_a_row(named), first_row or (lambda: None))
    aliases = {name: field for name, field in zip(names, fields, strict=True) if name and field and name != field}
    return Header(tuple(field or None for field in fields), aliases)


def has_prompt(cells: list[str], reading: Reading) -> bool:
    """Whether this could be the header: it has a column from which a prompt is made."""
    names = [reading.rename.get(name.strip(), name.strip()) for name in cells]
    if reading.prompt_column is not None:
        return reading.prompt_column in names
    if reading.prompt_template is not None:
        return not _in_template(reading.prompt_template).isdisjoint(names)
    return not _PROMPTS.isdisjoint(name.lower() for name in names)


def _in_template(template: str) -> frozenset[str]:
    from vllm_hpc.rows.template import PromptTemplate

    return PromptTemplate(template).names


def own_name(name: str, names: Iterable[str], reading: Reading) -> str:
    """A field's own name for ` Prompt ` or `ID`, unless a column has that very name."""
    field = name.lower()
    if name in (reading.prompt_column, reading.id_column) or field not in _FORGIVEN or field in names:
        return name
    return name if reading.makes_prompt and field in _PROMPTS else field


def _spelled(cells: list[str], found: Notes) -> list[str]:
    names = [cell.strip() for cell in cells]
    if names and not names[0] and any(names):
        # The row names of pandas and R; pandas calls them so when it reads them again.
        others = frozenset(names)
        names[0], number = "Unnamed: 0", 1
        while names[0] in others:
            names[0], number = f"Unnamed: 0.{number}", number + 1
        found.add(notes.UNNAMED, 1, [repr(names[0])])
    return names


def _check_once(names: list[str]) -> None:
    if twice := first_repeated(filter(None, names)):
        raise RowError(f"column {twice!r} appears twice: rename one")


def _check_prompt(names: list[str], reading: Reading, row: str, first_row: Callable[[], Row | None]) -> None:
    """Refuse a header without a prompt; ``row`` says what to do if it is a row rather."""
    if reading.prompt_column is not None:
        if reading.prompt_column not in names:
            words = f"no column {reading.prompt_column!r} (--prompt-column), only {some_names(names)}"
            raise RowError(f"{words}: {row}" if row else words)
    elif reading.prompt_template is not None:
        if row and _in_template(reading.prompt_template).isdisjoint({_ROW, *names}):
            raise RowError(f"no column that --prompt-template names, only {some_names(names)}: {row}")
    elif _PROMPTS.isdisjoint(names):
        lost = next((pair for pair in reading.rename.items() if pair[1] in _PROMPTS), None)
        if lost:  # no column has the old name, or there would be a prompt
            raise RowError(f"no column {lost[0]!r} (--rename {lost[0]}={lost[1]}), only {some_names(names)}")
        below = None if row else first_row()
        advice = row or (advice_for(below) if below else prompt_advice(dict.fromkeys(names, "")))
        raise RowError(f"no column 'prompt' or 'messages', only {some_names(names)}: {advice}")


def _if_a_row(names: list[str]) -> str:
    """What to do about a header that looks like a row; nothing if it looks like names."""
    is_numbered = names == [str(number) for number in range(len(names))]  # as pandas names columns without a name
    is_lone = len(names) == 1 and not is_known(names[0])
    if is_numbered or not (is_lone or any(map(_is_data, names))) or any(map(is_known, names)):
        return ""
    line = (
        "'prompt' as the first line" if len(names) == 1 else f"a first line of {len(names)} names, one of them 'prompt'"
    )
    column = shlex.quote(names[0]) if is_lone and not _is_data(names[0]) else "NAME"
    return f"does the file have a header? If not, write {line}; if it has, use --prompt-column {column}"


def _is_data(cell: str) -> bool:
    """Whether a cell is rather data than a name: a number, a sentence, or a long text."""
    is_sentence = len(cell.split()) > 1 and cell.endswith((".", "?", "!"))
    return is_sentence or len(cell) > _LONGEST_NAME or len(cell.split()) > _MOST_WORDS or bool(_NUMBER.fullmatch(cell))
