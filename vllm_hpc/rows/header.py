"""The header of a table: which column is which field."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from vllm_hpc.rows import notes
from vllm_hpc.rows.conversations import CONVERSATIONS
from vllm_hpc.rows.missing_prompt import some_names, text_advice
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import RowError

# Fields whose name may be written as people write it in a spreadsheet. Not ``task`` and ``lora``, which are rare, and
# words for data too.
_FORGIVEN = ("prompt", "messages", "id", "sampling", "tools", "chat_template_kwargs", CONVERSATIONS)
_PROMPTS = frozenset({"prompt", "messages", CONVERSATIONS})


class Header(NamedTuple):
    """The field of each column, and other names for fields: as the file spells them.

    None is a column without a name, whose cells must be empty.
    """

    fields: tuple[str | None, ...]
    aliases: dict[str, str]


def read_header(cells: list[str], reading: Reading, found: Notes) -> Header:
    """The header with these cells. Raises RowError for one without a prompt, or with a repeated name."""
    spelled = _spelled(cells, found)
    names = [name and reading.rename.get(name, name) for name in spelled]
    found.renamed |= reading.rename.keys() & set(spelled)
    _check_once(names)
    fields = [name and own_name(name, names, reading) for name in names]
    _check_once(fields)
    _check_prompt([name for name in fields if name], reading)
    aliases = {name: field for name, field in zip(names, fields, strict=True) if name and field and name != field}
    return Header(tuple(field or None for field in fields), aliases)


def has_prompt(cells: list[str], reading: Reading) -> bool:
    """Whether this could be the header: it has a column from which a prompt is made."""
    names = [reading.rename.get(name.strip(), name.strip()) for name in cells]
    if reading.prompt_column is not None:
        return reading.prompt_column in names
    if reading.prompt_template is not None:
        from vllm_hpc.rows.template import PromptTemplate

        return not PromptTemplate(reading.prompt_template).names.isdisjoint(names)
    return not _PROMPTS.isdisjoint(name.lower() for name in names)


def own_name(name: str, names: Iterable[str], reading: Reading) -> str:
    """A field's own name for ` Prompt ` or `ID`, unless a column has that very name."""
    field = name.lower()
    if name == reading.prompt_column or field not in _FORGIVEN or field in names:
        return name
    return name if reading.makes_prompt and field in _PROMPTS else field


def _spelled(cells: list[str], found: Notes) -> list[str]:
    names = [cell.strip() for cell in cells]
    if names and not names[0] and any(names):
        # The row names of pandas and R; pandas calls them so when it reads them again.
        names[0], number = "Unnamed: 0", 1
        while names[0] in names[1:]:
            names[0], number = f"Unnamed: 0.{number}", number + 1
        found.add(notes.UNNAMED, 1, [repr(names[0])])
    return names


def _check_once(names: list[str]) -> None:
    if twice := next((name for name in names if name and names.count(name) > 1), None):
        raise RowError(f"column {twice!r} appears twice: rename one")


def _check_prompt(names: list[str], reading: Reading) -> None:
    if reading.prompt_column is not None:
        if reading.prompt_column not in names:
            raise RowError(f"no column {reading.prompt_column!r} (--prompt-column), only {some_names(names)}")
    elif reading.prompt_template is None and _PROMPTS.isdisjoint(names):
        lost = next((pair for pair in reading.rename.items() if pair[1] in _PROMPTS), None)
        if lost:  # no column has the old name, or there would be a prompt
            raise RowError(f"no column {lost[0]!r} (--rename {lost[0]}={lost[1]}), only {some_names(names)}")
        raise RowError(f"no column 'prompt' or 'messages', only {some_names(names)}: {text_advice(names)}")
