"""The lines of #SBATCH or #PBS of a script: each option with its value, in the order in which they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from vllm_hpc.spec.directives import check_directive, qsub_options
from vllm_hpc.spec.errors import RequestError

_LINE = re.compile(r"#(SBATCH|PBS)\s+(.*)")
# Letters of sbatch by which a template may write what ours writes with long names.
_LONG_NAMES = {
    "A": "account", "a": "array", "c": "cpus-per-task", "C": "constraint", "d": "dependency", "D": "chdir",
    "e": "error", "G": "gpus", "H": "hold", "J": "job-name", "L": "licenses", "m": "distribution", "n": "ntasks",
    "N": "nodes", "o": "output", "p": "partition", "q": "qos", "t": "time", "w": "nodelist", "x": "exclude",
}  # fmt: skip
_FLAGS = frozenset("HhIkOQsvVW")


class Directive(NamedTuple):
    """An option as the scheduler is given it: ``--nodes``, ``-l select``, ``-W umask``; the number of its line."""

    option: str
    value: str
    line: int


def directives_of(script: str) -> list[Directive]:
    """All of a script's, which end at the first command. Raises RequestError for a line that cannot be split."""
    found: list[Directive] = []
    for number, line in enumerate(script.splitlines(), start=1):
        match = _LINE.match(line)
        if match:
            read = _of_slurm if match[1] == "SBATCH" else _of_pbs
            try:
                found += [Directive(option, value, number) for option, value in read(match[2])]
            except RequestError:
                raise RequestError(f"line {number} of the script is no option of the scheduler: {line!r}") from None
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _of_slurm(text: str) -> Iterator[tuple[str, str]]:
    words = check_directive(_without_comment(text), "#SBATCH")
    rest = iter(words)
    for word in rest:
        if word.startswith("--"):
            name, sign, value = word.partition("=")
            yield name.replace("--no-requeue", "--requeue"), value if sign else word
            continue
        if not word.startswith("-") or word == "-":
            continue  # the value of the option before
        letter, value = word[1], word[2:]
        if not value and letter not in _FLAGS:
            value = next(rest, "")
        yield f"--{_LONG_NAMES[letter]}" if letter in _LONG_NAMES else f"-{letter}", value


def _without_comment(text: str) -> str:
    """sbatch ends a line at a # that stands outside of quotes."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars=False)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        words = list(lexer)
    except ValueError:
        return text
    cut = next((n for n, word in enumerate(words) if word.startswith("#")), len(words))
    return shlex.join(words[:cut])


def _of_pbs(text: str) -> Iterator[tuple[str, str]]:
    for letter, value in qsub_options(check_directive(text, "#PBS"), "#PBS"):
        if letter in ("l", "W"):
            for part in value.split(","):
                name, _, amount = part.partition("=")
                yield f"-{letter} {name.strip()}", amount
        else:
            yield f"-{letter}", value
