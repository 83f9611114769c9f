"""The order of #PBS lines: what the user asks for wins over a profile's, and that over the template's.

Of two ``-l NAME`` in a script qsub uses the first, also of one list (``-l cput=1,cput=2``). Of any other option it uses
the last: of -W the last that has the attribute, of -v the last alone (submitted to OpenPBS 23.06.06, as in
tests/pbs/test_directive_order.py; src/cmds/qsub.c, process_opts, and src/lib/Libcmds/set_resource.c). Lines come in the
order in which a later one wins: the profile's, then the user's.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from vllm_hpc.spec.directives import check_directive, qsub_options
from vllm_hpc.spec.errors import RequestError

_LINE = re.compile(r"#PBS\s+(.*)")


def resource_lines(lines: Sequence[str]) -> list[str]:
    """The ``-l`` options of some lines, to stand before all others: the last line's first."""
    found = [[value for letter, value in _options(line) if letter == "l"] for line in lines]
    return [f"-l {shlex.quote(value)}" for values in reversed(found) for value in values]


def other_lines(lines: Sequence[str]) -> list[str]:
    """All that is not ``-l``, to stand behind the template's own: as given, but with one ``-v`` for all variables."""
    kept = [line for line in (_without(line, "l") for line in lines) if line]
    return _with_one_v(kept)


def merge_variables(script: str) -> str:
    """A script whose #PBS lines have one ``-v`` with the variables of all: qsub would use the last alone."""
    lines = script.splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    header = {n: found[1].rstrip() for n in range(end) if (found := _LINE.match(lines[n]))}
    given = {n: text for n, text in header.items() if _has_variables(text)}
    if len(given) < 2:
        return script
    for n, text in given.items():
        kept = _without(text, "v")
        lines[n] = f"#PBS {kept}\n" if kept else ""
    lines[max(given)] += f"#PBS {_one_v(given.values())}\n"
    return "".join(lines)


def _has_variables(text: str) -> bool:
    """Whether a template's line has a -v; one that cannot be read is left to qsub, which says what is wrong."""
    try:
        return bool(_variables(text))
    except RequestError:
        return False


def _with_one_v(lines: list[str]) -> list[str]:
    if sum(bool(_variables(line)) for line in lines) < 2:
        return lines
    return [*filter(None, (_without(line, "v") for line in lines)), _one_v(lines)]


def _one_v(lines: Iterable[str]) -> str:
    merged = {name: text for line in lines for name, text in _variables(line)}
    return f"-v {shlex.quote(','.join(merged.values()))}"


def _variables(line: str) -> list[tuple[str, str]]:
    """The variables of a line's ``-v``, each with its name."""
    parts = [part for letter, value in _options(line) if letter == "v" for part in _parts(value)]
    return [(part.partition("=")[0].strip(), part) for part in parts]


def _parts(value: str) -> Iterator[str]:
    """Where qsub ends a variable: at a comma, but in quotes, as in A="b,c", and after a backslash (its comma_token)."""
    part, quote, rest = "", "", iter(value)
    for character in rest:
        if character == "," and not quote:
            yield from filter(None, [part])
            part = ""
            continue
        if character in "'\"":
            quote = "" if character == quote else character
        part += character + (next(rest, "") if character == "\\" else "")
    yield from filter(None, [part])


def _without(line: str, letter: str) -> str:
    """A line without the options of that letter; as it was written, if it has none."""
    options = _options(line)
    if all(one != letter for one, _ in options):
        return line
    kept = [f"-{one}" + (f" {shlex.quote(value)}" if value else "") for one, value in options if one != letter]
    return " ".join(kept)


def _options(line: str) -> list[tuple[str, str]]:
    return list(qsub_options(check_directive(line, "#PBS"), "#PBS"))
