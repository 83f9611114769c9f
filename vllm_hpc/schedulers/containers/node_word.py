"""Quotes a word in which variables of the node may stand, for the shell that runs there."""

from __future__ import annotations

import re
import shlex

_VARIABLE = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)(?::-([^{}]*))?\})", re.ASCII)


def node_word(text: str) -> str:
    """A word for a line of the script, in which $NAME and ${NAME:-default} are the node's and ``$$`` is a dollar.

    A value is neither split nor expanded once more; a variable that is not set ends the shell, which says so.
    """
    pieces, place, literal = list[str](), 0, ""
    for found in _VARIABLE.finditer(text):
        literal += text[place : found.start()]
        place = found.end()
        if found[1]:
            literal += "$"
            continue
        pieces += [shlex.quote(literal)] if literal else []
        pieces.append(_expansion(found[2] or found[3], found[4]))
        literal = ""
    literal += text[place:]
    if literal or not pieces:
        pieces.append(shlex.quote(literal))
    return "".join(pieces)


def with_defaults(text: str) -> str:
    """What of the text is known: with its dollars, and a variable's default in the place of it."""
    return _VARIABLE.sub(lambda found: "$" if found[1] else found[4] or "", text)


def _expansion(name: str, default: str | None) -> str:
    if default is None:
        return f'"${{{name}:?}}"'
    return f'"${{{name}:-{_quoted(default)}}}"'


def _quoted(text: str) -> str:
    """Within double quotes."""
    return re.sub(r'([\\"$`])', r"\\\1", text)
