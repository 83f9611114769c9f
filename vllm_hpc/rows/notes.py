"""What is said of an input once, however many rows it is true of: how many they are, and where the first is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

import msgspec

# Names that a note lists; a file may have any number of them.
_MOST_NAMES = 12
_MOST_ADAPTERS = 1000

# The kinds of notes.
ANSWERED = "answered"
BATCH_ANSWERED = "batch answered"
DROPPED = "dropped"
RENAMED = "renamed"
NOT_FINITE = "not finite"
HALVES = "halves"
UNREADABLE = "unreadable"
UNNAMED = "unnamed"
SYSTEM = "system"
NOT_APPLIED = "not applied"
OUTSIDE = "outside"
ABSENT = "absent"
ESCAPES = "escapes"
LEFT_OUT = "left out"
WHOLE_IDS = "whole ids"
LIST_AS_TEXT = "list as text"
HEADER = "header"
NO_CHAT = "no chat"
OTHER_TOOLS = "other tools"
# Rows that will become error rows, some of them only in a job that makes embeddings, or in one that does not.
EMPTY = "empty"
WRONG_SAMPLING = "wrong sampling"
EMBEDS = "embeds"
GENERATES = "generates"


class _Found(msgspec.Struct):
    first: str
    count: int = 0
    names: dict[str, None] = {}


class Notes:
    """The notes on one file or several. ``place`` gives the place of a row by its number."""

    def __init__(self, place: Callable[[int], str] = str) -> None:
        self.place = place
        self._found: dict[str, _Found] = {}
        # The names in --rename that some row has.
        self.renamed: set[str] = set()
        # Whether some row is a chat without a template of its own.
        self.has_chats = False
        self._adapters: dict[str, _Found] = {}

    def add(self, kind: str, number: int, names: Iterable[str] = ()) -> None:
        """Count a row."""
        found = self._found.get(kind)
        if found is None:
            found = self._found[kind] = _Found(self.place(number))
        found.count += 1
        if len(found.names) <= _MOST_NAMES:
            found.names.update(dict.fromkeys(names))

    def add_adapter(self, name: str, number: int) -> None:
        """Count a row that asks for an adapter; after many names, no more of them."""
        if name in self._adapters or len(self._adapters) < _MOST_ADAPTERS:
            self._adapters.setdefault(name, _Found(self.place(number))).count += 1

    def first(self, kind: str, words: str = "") -> str:
        """The place and the name of the first row of a kind that was found, with ``words`` before the name."""
        found = self._found[kind]
        return f"{found.first}: {words}{next(iter(found.names))}"

    def join(self, other: Notes) -> None:
        """Add the notes of a later file."""
        self.renamed |= other.renamed
        self.has_chats = self.has_chats or other.has_chats
        for name, theirs in other._adapters.items():
            self._adapters.setdefault(name, _Found(theirs.first)).count += theirs.count
        for kind, theirs in other._found.items():
            ours = self._found.setdefault(kind, _Found(theirs.first))
            ours.count += theirs.count
            ours.names.update(theirs.names)

    def has(self, kind: str) -> bool:
        """Whether there is a row of a kind."""
        return kind in self._found

    def count(self, kind: str) -> int:
        """How many rows of a kind there are."""
        return self._found[kind].count if kind in self._found else 0

    def lines(self, embeds: bool = False, adapters: Collection[str] | None = None) -> list[str]:
        """The notes as sentences. ``embeds``: the job makes embeddings, of which a chat may end with any turn.

        ``adapters``: the job's; without them no job is known, and nothing is said of what it can run.
        """
        unsaid = (*(_OF_GENERATING if embeds else (GENERATES,)), *((EMBEDS, GENERATES) if adapters is None else ()))
        said = [(_WORDS[kind], self._found[kind]) for kind in _WORDS if kind in self._found and kind not in unsaid]
        if adapters is not None and (without := self._without(adapters)):
            said.insert(0, (_no_adapter, without))
        return [f"{words(found)} (the first: {found.first})" for words, found in said]

    def _without(self, adapters: Collection[str]) -> _Found | None:
        """The rows that ask for an adapter that is none of these."""
        lost = {name: found for name, found in self._adapters.items() if name not in adapters}
        count = sum(found.count for found in lost.values())
        names: dict[str, None] = dict.fromkeys(map(repr, lost))
        return _Found(next(iter(lost.values())).first, count, names) if lost else None


def _answered(found: _Found) -> str:
    return f"{_end(found)}: use --drop-last-answer, or continue_final_message in chat_template_kwargs"


def _batch_answered(found: _Found) -> str:
    advice = 'to have it continued, add "continue_final_message": true and "add_generation_prompt": false to the body'
    return f"{_end(found)}: {advice}"


def _end(found: _Found) -> str:
    rows = "1 row ends" if found.count == 1 else f"{found.count:,} rows end"
    return f"{rows} with the assistant's turn"


def _dropped(found: _Found) -> str:
    return f"{_rows(found)}: the last answer is not in the prompt, but copied to the output as 'reference'"


def _renamed(found: _Found) -> str:
    return f"{_rows(found)}: fields whose names have a meaning here are copied under others: {_names(found)}"


def _not_finite(found: _Found) -> str:
    return f"{_rows(found)}: NaN or infinity is read as null, in {_names(found)}"


def _halves(found: _Found) -> str:
    return f"{_rows(found)}: half of a surrogate pair is read as U+FFFD, in {_names(found)}"


def _unreadable(found: _Found) -> str:
    first, *others = found.names
    more = f"; and {'another reason' if len(others) == 1 else 'other reasons'}, such as {others[0]}" if others else ""
    return f"{_rows(found)} cannot be run and {_become(found)}: {first}{more}"


def _empty(found: _Found) -> str:
    return f"{_rows(found)} will {_become(found, True)}: the prompt is empty"


def _wrong_sampling(found: _Found) -> str:
    return f"{_rows(found)} will {_become(found, True)}: in 'sampling', {_names(found)}"


def _embeds(found: _Found) -> str:
    asking = "asking to embed, which needs --engine runner=pooling"
    return f"{_rows(found)} will {_become(found, True)}: {asking}"


def _generates(found: _Found) -> str:
    asking = "asking to generate, which a job with --engine runner=pooling cannot"
    return f"{_rows(found)} will {_become(found, True)}: {asking}"


def _no_adapter(found: _Found) -> str:
    return f"{_rows(found)} will {_become(found, True)}: no adapter {_names(found)}: add it with --lora"


def _become(found: _Found, is_later: bool = False) -> str:
    if found.count == 1:
        return "become an error row" if is_later else "becomes an error row"
    return "become error rows"


def _header(found: _Found) -> str:
    (name,) = found.names
    return f"the first line looks like a table's header, and is run as a prompt: if it is one, name the file {name}"


def _no_chat(found: _Found) -> str:
    return f"{_rows(found)}: {_names(found)} is copied, and has no effect beside a prompt: only 'messages' use it"


def _other_tools(found: _Found) -> str:
    form = '{"type": "function", "function": {"name": ...}}'
    return f"{_rows(found)}: 'tools' without the form {form} are written into the prompt as they are"


def _unnamed(found: _Found) -> str:
    return (
        f"column 1 has no name and is copied as {_names(found)}: leave it out with to_csv(..., index=False) in pandas, "
        "row.names = FALSE in R"
    )


def _system(found: _Found) -> str:
    return f"{_rows(found)}: {_names(found)} is copied, and no part of the prompt: write it as the first message"


def _not_applied(found: _Found) -> str:
    return f"{_rows(found)}: copied, and not applied: {_names(found)}: to have them applied, put them into 'sampling'"


def _outside(found: _Found) -> str:
    return (
        f"{_rows(found)}: neither applied nor copied: {_names(found)}: a batch request has only custom_id, method, url "
        "and body"
    )


def _absent(found: _Found) -> str:
    advice = 'leave the cell of a missing value empty (R: write.csv(..., na = ""))'
    return f"{_rows(found)}: read as that text: {_names(found)}: {advice}"


def _escapes(found: _Found) -> str:
    advice = 'if Spark wrote the file, write it with .option("escape", "\\"")'
    return f"{_rows(found)}: a backslash before a quote is read as the end of a cell, in {_names(found)}: {advice}"


def _left_out(found: _Found) -> str:
    return f"{_rows(found)}: columns that JSON cannot express are not copied to the output: {_names(found)}"


def _whole_ids(found: _Found) -> str:
    return (
        f"{_rows(found)}: ids that end in .0, as pandas writes them beside a gap, are read without it: {_names(found)}"
    )


def _list_as_text(found: _Found) -> str:
    return (
        f"{_rows(found)}: {_names(found)} looks like a list that was written as text, and is run as that text: write a "
        "chat as 'messages', one row for each prompt, and token ids as a list"
    )


def _rows(found: _Found) -> str:
    return "1 row" if found.count == 1 else f"{found.count:,} rows"


def _names(found: _Found) -> str:
    shown = list(found.names)[:_MOST_NAMES]
    return ", ".join(shown) + (" ..." if len(found.names) > _MOST_NAMES else "")


# What is not said of a job that makes embeddings.
_OF_GENERATING = (ANSWERED, BATCH_ANSWERED, EMBEDS)
_WORDS: dict[str, Callable[[_Found], str]] = {
    UNREADABLE: _unreadable,
    EMPTY: _empty,
    WRONG_SAMPLING: _wrong_sampling,
    EMBEDS: _embeds,
    GENERATES: _generates,
    HEADER: _header,
    ANSWERED: _answered,
    BATCH_ANSWERED: _batch_answered,
    DROPPED: _dropped,
    RENAMED: _renamed,
    NOT_FINITE: _not_finite,
    HALVES: _halves,
    UNNAMED: _unnamed,
    SYSTEM: _system,
    NOT_APPLIED: _not_applied,
    OUTSIDE: _outside,
    ABSENT: _absent,
    ESCAPES: _escapes,
    LEFT_OUT: _left_out,
    WHOLE_IDS: _whole_ids,
    LIST_AS_TEXT: _list_as_text,
    NO_CHAT: _no_chat,
    OTHER_TOOLS: _other_tools,
}
