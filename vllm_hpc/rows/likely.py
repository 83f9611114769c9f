"""Which fields of a row its prompt is likely made of, for advice: by what public data sets and exporters call them.

An answer, a label or a key is never named: where no field is likely, the reader has to choose.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any, NamedTuple

from vllm_hpc.rows.row import Row

# What questions are called, the likeliest first; then texts to work on; then what is a prompt only if nothing else is.
QUESTIONS = (
    "prompt", "instruction", "instructions", "question", "query", "problem", "turns", "arguments", "gen_args_0",
    "arg_0", "goal", "stem", "utterance", "question1", "conversation", "dialog",
)  # fmt: skip
TEXTS = (
    "text", "article", "document", "passage", "paragraph", "story", "sentence", "sentence1", "dialogue", "transcript",
    "translation", "en", "input", "inputs", "ctx", "context", "premise", "abstract", "review", "content", "contents",
    "body", "selftext", "message", "source", "src", "code",
)  # fmt: skip
REST = ("description", "headline", "comment", "title")
_NAMES = (*QUESTIONS, *TEXTS)
# What stands before and after a text in its prompt, if the row has it.
_AROUND: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "instruction": ((), ("input", "context")),
    "question": (
        ("context", "contexts", "passage", "paragraph", "article", "story", "premise"),
        ("choices", "options"),
    ),
    "query": (("context", "contexts", "passage", "document"), ()),
    "input": (("definition",), ("choices", "options")),
    "inputs": (("definition",), ()),
    "question1": ((), ("question2",)),
    "sentence1": ((), ("sentence2",)),
    "premise": ((), ("hypothesis",)),
}
# Words of names that are no prompts: answers, labels, keys, and what is said about a text.
NEVER = frozenset(
    {"answer", "answers", "target", "targets", "output", "outputs", "response", "responses", "completion", "reply"}
    | {"completions", "chosen", "rejected", "solution", "reference", "references", "gold", "label", "labels", "summary"}
    | {"category", "key", "id", "ids", "uuid", "index", "hash", "type", "url", "date", "name", "model", "language"}
    | {"lang", "length", "count", "number", "score", "metadata", "meta", "split", "subject", "topic"}
    | {"highlights", "hypothesis", "status", "error", "system", "generation", "generations"}
    | {"generated", "preferred"}
)
_DEPTH = 3
_WORD = re.compile(r"[^\W\d_]+")
# Names that mean something else in a template.
_TAKEN = frozenset({"range", "dict", "and", "or", "not", "in", "is", "if", "else", "true", "false", "none"})


class Field(NamedTuple):
    """A field that is likely the prompt: the object it is in, as written in a template, its key, and its text there."""

    within: str
    key: str
    text: str


def prompt_advice(fields: Row) -> str:
    """The options that make a prompt from these fields; of a table's header, every value is a text."""
    found = _likely(fields)
    tokens = next((name for name, value in fields.items() if _are_tokens(value)), None)
    if found is None and tokens is not None:
        return f"'prompt' may be token ids: use --rename {shlex.quote(tokens)}=prompt"
    if found is None:
        return (
            "use --prompt-column NAME with the one that is the prompt, or --prompt-template with {{ NAME }} for several"
        )
    template, is_alone = _template(found, fields)
    is_column = not found.within and isinstance(fields[found.key], str)
    column = f"--prompt-column {shlex.quote(found.key)}"
    if not is_column:
        return f"use --prompt-template {shlex.quote(template)}"
    if is_alone:
        return f"use {column}, or --prompt-template with {template}"
    return f"use --prompt-template {shlex.quote(template)}, or {column} for that alone"


def template_of(name: str, value: Any) -> str | None:
    """The template of the text in a field that is no text itself; None if none is found."""
    text = _text_in(_at("", name), value, _DEPTH)
    return text and f"{{{{ {text} }}}}"


def is_known(name: str) -> bool:
    """Whether a name is one of those for a prompt, in any case."""
    return name.lower() in (*_NAMES, *REST)


def has_one(fields: Row, names: tuple[str, ...]) -> bool:
    """Whether a field has one of these names, in any case."""
    return not {name.lower() for name in fields}.isdisjoint(names)


def words_of(name: str) -> list[str]:
    """The words of a name in lower case: ``Question text``, ``question_text`` and ``questionText`` have two."""
    return [word.lower() for word in _WORD.findall(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name))]


def _are_tokens(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int for one in value)


def _likely(fields: Row, within: str = "", depth: int = _DEPTH) -> Field | None:
    """The likeliest of some fields: by name, then in an object among them, then the only text."""
    for key in _by_name(fields):
        if text := _text_in(_at(within, key), fields[key], depth):
            return Field(within, key, text)
    others = {key: value for key, value in fields.items() if NEVER.isdisjoint(words_of(key))}
    for key, value in others.items():
        if isinstance(value, dict) and depth and (found := _likely(value, _at(within, key), depth - 1)):
            return found
    texts = [key for key, value in others.items() if isinstance(value, str)]
    return Field(within, texts[0], _at(within, texts[0])) if len(texts) == 1 and not within else None


def _by_name(fields: Row) -> Iterator[str]:
    """Fields with a known name, then those with a known word in their name, then those of the rest."""
    yield from sorted((key for key in fields if key.lower() in _NAMES), key=lambda key: _NAMES.index(key.lower()))
    for names, without in ((_NAMES, {*NEVER, *REST}), (REST, NEVER)):
        ranks: dict[str, int] = {}
        for key in fields:
            words = words_of(key)
            if without.isdisjoint(words) and (known := [names.index(word) for word in words if word in names]):
                ranks[key] = min(known)
        yield from sorted(ranks, key=ranks.__getitem__)


def _text_in(path: str, value: Any, depth: int) -> str | None:
    """The place of the text in a value: its own, that of the first item, or of the likeliest field."""
    if isinstance(value, str):
        return path
    if not depth or not value:
        return None
    if isinstance(value, list):
        return _text_in(f"{path}[0]", value[0], depth - 1)
    if isinstance(value, dict):
        found = _likely(value, path, depth - 1)
        first = next((key for key, one in value.items() if isinstance(one, str)), None)
        is_texts = first is not None and all(isinstance(one, str) for one in value.values())
        return found.text if found else _at(path, str(first)) if is_texts else None
    return None


def _template(found: Field, fields: Row) -> tuple[str, bool]:
    """The template of a prompt of this field and those around it, and whether it is alone."""
    beside = _object(found, fields)
    names = {key.lower(): key for key in beside}
    before, after = _AROUND.get(found.key.lower(), ((), ()))
    lists = [[_list_of(found.within, names[name], beside[names[name]]) for name in side if name in names]
             for side in (before, after)]  # fmt: skip
    parts = [*filter(None, lists[0]), f"[{found.text}]", *filter(None, lists[1])]
    if len(parts) == 1:
        return f"{{{{ {found.text} }}}}", True
    joined = " + ".join(parts).replace("] + [", ", ")
    joined = f"({joined})" if " + " in joined else joined
    return f'{{{{ {joined} | select | join("\\n\\n") }}}}', False


def _object(found: Field, fields: Row) -> Row:
    """The object that the field is in."""

    def search(value: Row, within: str) -> Row | None:
        if within == found.within:
            return value
        inner = ((_at(within, key), one) for key, one in value.items() if isinstance(one, dict))
        return next((row for path, one in inner if (row := search(one, path)) is not None), None)

    return search(fields, "") or {}


def _list_of(within: str, key: str, value: Any) -> str | None:
    """A list of the texts of a field in a template; None if it has none."""
    path = _at(within, key)
    if value is None or isinstance(value, str):
        return f"[{path}]"
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        return _list_of(path, "text", value["text"])
    is_texts = isinstance(value, list) and value and all(isinstance(one, str) for one in value)
    return path if is_texts else None


def _at(within: str, key: str) -> str:
    """A field of an object as a template names it."""
    if not key.isidentifier() or (not within and key.lower() in _TAKEN):
        return f"{within or 'row'}[{json.dumps(key, ensure_ascii=False)}]"
    return f"{within}.{key}" if within else key
