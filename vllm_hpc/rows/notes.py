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
        # The names in --keep that some row has.
        self.kept: set[str] = set()
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
        self.kept |= other.kept
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
        said = [
            _said(_SENTENCES[kind], self._found[kind]) for kind in _SENTENCES if self.has(kind) and kind not in unsaid
        ]
        if adapters is not None and (without := self._without(adapters)):
            said.insert(0, _said(_NO_ADAPTER, without))
        return said

    def _without(self, adapters: Collection[str]) -> _Found | None:
        """The rows that ask for an adapter that is none of these."""
        lost = {name: found for name, found in self._adapters.items() if name not in adapters}
        count = sum(found.count for found in lost.values())
        names: dict[str, None] = dict.fromkeys(map(repr, lost))
        return _Found(next(iter(lost.values())).first, count, names) if lost else None


def _said(sentence: str, found: _Found) -> str:
    """A sentence of the table for the rows that were found, with the place of the first."""
    is_one = found.count == 1
    words = sentence.format(
        rows="1 row" if is_one else f"{found.count:,} rows",
        names=_names(found),
        reasons=_reasons(found),
        becomes="becomes an error row" if is_one else "become error rows",
        will_become="will become an error row" if is_one else "will become error rows",
        ends="ends" if is_one else "end",
    )
    return f"{words} (the first: {found.first})"


def _names(found: _Found) -> str:
    shown = list(found.names)[:_MOST_NAMES]
    return ", ".join(shown) + (" ..." if len(found.names) > _MOST_NAMES else "")


def _reasons(found: _Found) -> str:
    """The first of several reasons, and one more."""
    first, *others = found.names or ("",)
    more = f"; and {'another reason' if len(others) == 1 else 'other reasons'}, such as {others[0]}" if others else ""
    return first + more


# What is not said of a job that makes embeddings.
_OF_GENERATING = (ANSWERED, BATCH_ANSWERED, EMBEDS)
_NO_ADAPTER = "{rows} {will_become}: no adapter {names}: add it with --lora"
# In the order in which they are said; {{ and }} are braces.
_SENTENCES = {
    UNREADABLE: "{rows} cannot be run and {becomes}: {reasons}",
    EMPTY: "{rows} {will_become}: the prompt is empty",
    WRONG_SAMPLING: "{rows} {will_become}: in 'sampling', {names}",
    EMBEDS: "{rows} {will_become}: asking to embed, which needs --engine runner=pooling",
    GENERATES: "{rows} {will_become}: asking to generate, which a job with --engine runner=pooling cannot",
    HEADER: "the first line looks like a table's header, and is run as a prompt: if it is one, name the file {names}",
    ANSWERED: "{rows} {ends} with the assistant's turn: use --drop-last-answer, or continue_final_message in "
    "chat_template_kwargs",
    BATCH_ANSWERED: "{rows} {ends} with the assistant's turn: to have it continued, add "
    '"continue_final_message": true and "add_generation_prompt": false to the body',
    DROPPED: "{rows}: the last answer is not in the prompt, but copied to the output as 'reference'",
    RENAMED: "{rows}: fields whose names have a meaning here are copied under others: {names}",
    NOT_FINITE: "{rows}: NaN or infinity is read as null, in {names}",
    HALVES: "{rows}: half of a surrogate pair is read as U+FFFD, in {names}",
    UNNAMED: "column 1 has no name and is copied as {names}: leave it out with to_csv(..., index=False) in pandas, "
    "row.names = FALSE in R",
    SYSTEM: "{rows}: {names} is copied, and no part of the prompt: write it as the first message",
    NOT_APPLIED: "{rows}: copied, and not applied: {names}: to have them applied, put them into 'sampling'",
    OUTSIDE: "{rows}: neither applied nor copied: {names}: a batch request has only custom_id, method, url and body",
    ABSENT: '{rows}: read as that text: {names}: leave the cell of a missing value empty (R: write.csv(..., na = ""))',
    ESCAPES: "{rows}: a backslash before a quote is read as the end of a cell, in {names}: if Spark wrote the file, "
    """write it with .option("escape", "\\"")""",
    LEFT_OUT: "{rows}: columns that JSON cannot express are not copied to the output: {names}",
    WHOLE_IDS: "{rows}: ids that end in .0, as pandas writes them beside a gap, are read without it: {names}",
    LIST_AS_TEXT: "{rows}: {names} looks like a list that was written as text, and is run as that text: write a chat "
    "as 'messages', one row for each prompt, and token ids as a list",
    NO_CHAT: "{rows}: {names} is copied, and has no effect beside a prompt: only 'messages' use it",
    OTHER_TOOLS: "{rows}: 'tools' without the form "
    '{{"type": "function", "function": {{"name": ...}}}} are written into the prompt as they are',
}
