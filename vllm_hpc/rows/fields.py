"""The fields of a row under the names that vllm-hpc knows: renamed, with a prompt, none of them an output field."""

from __future__ import annotations

from typing import Any

from vllm_hpc.rows import notes
from vllm_hpc.rows.answers import REFERENCE
from vllm_hpc.rows.conversations import CONVERSATIONS, TurnsError, messages_of
from vllm_hpc.rows.messages import Messages, checked_messages
from vllm_hpc.rows.missing_prompt import some_names, with_hint, without_prompt
from vllm_hpc.rows.notes import Notes
from vllm_hpc.rows.plain import checked_prompt
from vllm_hpc.rows.reading import Reading
from vllm_hpc.rows.row import CHAT_FIELDS, INPUT_FIELDS, NULLABLE, OUTPUT_FIELDS, TASKS, Row, RowError

# Fields that mean something else in a normalised row, or that an output row has.
_TAKEN = OUTPUT_FIELDS | {"batch", "task"}
_PROMPTS = ("prompt", "messages")
# Of a row with a prompt, what is more than copied.
_MEANT = frozenset({"id", "prompt", "messages", "sampling", "task", "lora"})


class FieldReader:
    """Reads the fields of rows. ``aliases``: other names that a template may use, for fields of the rows.

    ``empty``: what a cell without a value contains, which a template takes for null.
    """

    def __init__(
        self, reading: Reading, found: Notes, aliases: dict[str, str] | None = None, empty: str | None = None
    ) -> None:
        self._reading, self._notes, self._aliases, self._empty = reading, found, aliases or {}, empty
        self._taken = _TAKEN | {REFERENCE} if reading.drop_last_answer else _TAKEN
        self._template = None
        if reading.prompt_template is not None:
            from vllm_hpc.rows.template import PromptTemplate

            self._template = PromptTemplate(reading.prompt_template)

    def rename(self, fields: Row) -> Row:
        """The fields under their new names (--rename). Raises RowError if a row has the new name, too."""
        new_names = self._reading.rename
        used = new_names.keys() & fields.keys()
        if not used:
            return fields
        self._notes.renamed |= used
        for old in used:
            new = new_names[old]
            if new in fields and new not in used:
                gone = next((name for name in (new, old) if fields[name] is None), None)
                if gone is None:
                    raise RowError(f"it has {new!r} beside {old!r} (--rename {old}={new}): rename that one as well")
                fields = {name: value for name, value in fields.items() if name != gone}
        return {new_names.get(name, name): value for name, value in fields.items()}

    def meaning(self, fields: Row) -> set[str]:
        """The fields that have a meaning, and are not only copied."""
        own = {*INPUT_FIELDS, *CHAT_FIELDS, "lora", self._reading.prompt_column or "prompt"}
        own.add(self._reading.id_column or "id")
        if not own & set(_PROMPTS) & fields.keys():
            own.add(CONVERSATIONS)
        used = self._template.names if self._template else ()
        return own.union(fields) if "row" in used else own.union(self._aliases.get(name, name) for name in used)

    def __call__(self, fields: Row, number: int) -> Row:
        """Fields of which exactly one is a prompt or a chat, without nulls that mean 'not given'. Raises RowError."""
        given = fields
        if None in fields.values():
            fields = {name: value for name, value in fields.items() if value is not None or name not in NULLABLE}
        if self._reading.makes_prompt:
            fields = self._with_prompt(fields, number)
        elif CONVERSATIONS in fields and not ("prompt" in fields or "messages" in fields):
            fields = {("messages" if name == CONVERSATIONS else name): value for name, value in fields.items()}
            fields["messages"] = _of_turns(fields["messages"])
        if ("prompt" in fields) == ("messages" in fields):
            raise RowError(without_prompt(fields, self._missing(given)))
        if self._reading.keep is not None:
            fields = self._kept(fields, given)
        if self._reading.id_column is not None:
            fields = self._with_id(fields, given, number)
        return fields if self._taken.isdisjoint(fields) else self._apart(fields, self._clashing(fields), number)

    def _missing(self, given: Row) -> str:
        """Why a row has no prompt, if that is because of a null, or a --rename that finds nothing."""
        empty = next((name for name in _PROMPTS if name in given and given[name] is None), None)
        renamed = [(old, new) for old, new in self._reading.rename.items() if new in _PROMPTS and new not in given]
        if renamed:
            old, new = renamed[0]
            return f"it has no {old!r} (--rename {old}={new}), only {some_names(given)}"
        return f"its {empty!r} is null or empty: fill it in, or remove the row" if empty else ""

    def _with_prompt(self, fields: Row, number: int) -> Row:
        """The fields with a prompt from the column or the template; a prompt that was there is only copied."""
        column, keep = self._reading.prompt_column, self._reading.keep
        if self._template is not None:
            try:
                prompt: Any = self._template.render(fields | self._aliased(fields), self._empty)
            except RowError as error:
                raise RowError(with_hint(str(error), fields)) from None
        elif fields.get(column or "") is None:
            words = f"the row has no {column!r} (--prompt-column), only {some_names(fields)}"
            if column in fields:
                words = f"the row has no {column!r} (--prompt-column): it is null or empty: fill it in, or remove it"
            raise RowError(with_hint(words, fields))
        else:
            prompt = checked_prompt(fields[column or ""], str(column))
            fields = {name: value for name, value in fields.items() if name != column or name in (keep or ())}
        if keep is not None:
            fields = {name: value for name, value in fields.items() if name not in _PROMPTS or name in keep}
        fields = self._apart(fields, [name for name in _PROMPTS if name in fields], number)
        return {**fields, "prompt": prompt}

    def _kept(self, fields: Row, given: Row) -> Row:
        """The fields with a meaning, and those to keep."""
        keep = self._reading.keep or ()
        self._notes.kept.update(name for name in keep if name in given)
        apart = [f"in_{name}" for name in _PROMPTS if name in keep and name in given]
        own = _MEANT | CHAT_FIELDS if "messages" in fields else _MEANT
        own -= {"id"} if self._reading.id_column not in (None, "id") else set()
        return {name: value for name, value in fields.items() if name in own or name in keep or name in apart}

    def _with_id(self, fields: Row, given: Row, number: int) -> Row:
        """The fields with the id of the column that has it; one that was there is only copied."""
        column = str(self._reading.id_column)
        if column not in given:
            raise RowError(f"the row has no {column!r} (--id-column), only {some_names(given)}")
        if column == "id":
            return fields
        fields = {name: value for name, value in fields.items() if name != column}
        fields = self._apart(fields, ["id"] if "id" in fields else [], number)
        return fields if given[column] in (None, self._empty) else {**fields, "id": given[column]}

    def _aliased(self, fields: Row) -> Row:
        return {name: fields[own] for name, own in self._aliases.items() if own in fields}

    def _clashing(self, fields: Row) -> list[str]:
        return [name for name in fields if name in self._taken and not (name == "task" and fields[name] in TASKS)]

    def _apart(self, fields: Row, names: list[str], number: int) -> Row:
        """The fields with these names changed to free ones."""
        if not names:
            return fields
        new_names = {name: _free_name(name, fields) for name in names}
        self._notes.add(notes.RENAMED, number, (f"{old!r} as {new!r}" for old, new in new_names.items()))
        return {new_names.get(name, name): value for name, value in fields.items()}


def _of_turns(turns: Any) -> Messages:
    """The messages of ShareGPT's turns. Raises TurnsError if they cannot be run, RowError if they are no turns."""
    messages = messages_of(turns)
    try:
        return checked_messages(messages)
    except RowError as error:
        raise TurnsError(str(error)) from None


def _free_name(name: str, fields: Row) -> str:
    free, number = f"in_{name}", 2
    while free in fields:
        free, number = f"in_{name}_{number}", number + 1
    return free
