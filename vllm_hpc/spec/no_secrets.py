"""Refuses secrets where they would be written to a file: in options, job.toml, profiles, templates.

By what they look like, and by the names beside them (``spec/secret_shapes.py``). No error repeats one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.secret_shapes import ASSIGNMENT, REFERENCE, is_secret, is_secret_value, shown_secret

ADVICE = "export it in your shell instead, and hand it over by its name: --env NAME, or a profile's 'secrets'"
# For the options whose value is a name, a path or a text, of which no environment can take the place.
_LEAVE_OUT = "leave it out"
_NO_VARIABLE = re.compile(
    r"MODEL|(--)?(account|partition|qos|name|job[_-]dir|time|mem|gpu|launcher|profile|template([_-]dir)?|input|lora|rename"
    r"|rows[_-]missing[_-]from|sampling|prompt[_-](column|template)|chat[_-]template|chunk|resources|head_suffix)"
)
_OF_THE_ENGINE = (
    "leave it out; what the engine can take from its environment, as it does HF_TOKEN, export in your shell (--env "
    "NAME checks that the job gets it)"
)
_WORD = r"(?!\$|`|-|\"\$|<)[^\s;&|<>]+"
_NAMED = re.compile(rf"(?<![\w-])(--?[A-Za-z][\w-]*)\s+({_WORD})")
# A header of HTTP, or an entry of JSON or YAML.
_ENTRY = re.compile(
    rf"(?<![\w{{$-])[\"']?([A-Za-z][\w-]*)[\"']?\s*:\s*[\"']?(?!(?i:bearer|basic|token|digest)\s)(?=[^\s;&|<>]{{6}})({_WORD})"
)
# Ways of a shell to give a variable a value without '='.
_GIVEN = re.compile(
    rf"(?:setenv|printf\s+-v|configure\s+set)\s+(\w+)\s+({_WORD})|\bread\b[^<]{{0,200}}?(\w+)\s*<<<\s*({_WORD})"
)
_DEFAULT = re.compile(r"\$\{(\w+):?[=-]([^}$`]+)\}")
# Commands with a password: as the value of an option, as a word, and written or piped to where one is read.
_COMMANDS = (
    rf"\b(?:curl|wget|lftp|http)\b[^;&|]{{0,200}}\s(?:-u|-U|--user|--proxy-user)[\s=]*[\"']?[^\s:\"'$]+:{_WORD}",
    rf"\b(?:sshpass|login)\b[^;&|]{{0,200}}\s-p\s*{_WORD}",
    rf"\blogin\s+\S{{1,99}}\s+password\s+{_WORD}",
    rf"\bmysql\w*\b[^;&|]{{0,200}}\s-p(?=\S){_WORD}",
    rf"\b(?:redis-cli\b[^;&|]{{0,200}}\s-a|ssh-keygen\b[^;&|]{{0,200}}\s-N|openssl\b[^;&|]{{0,200}}\s-[kK])\s+{_WORD}",
    rf"\bwandb\s+login\s+{_WORD}",
    r"\b(?:echo|printf)\s[^;&|$`<>]{4,200}\|[^;&|]{0,200}(?:--(?:password|token|api-key)-stdin|\bsudo\s[^;&|]{0,99}-S)",
    r"\b(?:echo|printf)\s[^;&|$`<>]{4,200}>{1,2}\s*[^\s;&|]{0,200}(?i:token|passw|secret|credential|netrc|pgpass|api_?key)",
    rf"[:=\"']\s{{0,9}}(?i:bearer)\s+{_WORD}",
)
_COMMAND = re.compile("|".join(_COMMANDS))
_COMMENT = re.compile(r"""#.{0,200}?(?<![\w-])([\w-]+)\s*[=:]\s*["']?([^\s"']+)""")
# A comment that is no line of options for a scheduler.
_PROSE = re.compile(r"\s*#(?!SBATCH|PBS)")
_PROXY_PAIR = re.compile(r"[^\s:@/]+:[^\s@]+@\S+")


def check_no_secret(value: Any, origin: str) -> None:
    """Refuse what is known as a secret by its shape, however deep it is in ``value``. Raises RequestError."""
    if isinstance(value, dict):
        for key, one in value.items():
            check_no_secret(key, origin)
            _check_texts(one, f"{origin} {key}")
    else:
        _check_texts(value, origin)


def _check_texts(value: Any, origin: str) -> None:
    for text in _texts(value):
        if shown := shown_secret(text):
            raise _looks_like(f"{origin} has {shown}, which")


def check_option(value: Any, origin: str) -> None:
    """Refuse the value of an option that has a secret; a text also by the names in it. Raises RequestError."""
    if isinstance(value, str):
        check_line(value, origin, is_shell=False)
    else:
        check_no_secret(value, origin)


def check_named(value: Any, origin: str, name: str = "", is_prose: bool = False) -> None:
    """The same for a tree of values with names, as of JSON: also by names, in texts too unless they are prose.

    Raises RequestError.
    """
    if isinstance(value, dict):
        for key, one in value.items():
            check_no_secret(str(key), origin)
            check_named(one, f"{origin} {key}" if not name else origin, str(key), is_prose)
    elif isinstance(value, list | tuple):
        for one in value:
            check_named(one, origin, name, is_prose)
    elif isinstance(value, str):
        if is_secret_value(name, value):
            raise _looks_like(f"{origin}{'' if origin.endswith(name) else f', its {name},'}")
        check_no_secret(value, origin)
        if not is_prose:
            _check_assignments(value, origin, is_shell=False)


def check_comments(text: str, origin: str) -> None:
    """Refuse a TOML file that is copied as it is, comments too, and has a secret. Raises RequestError."""
    check_no_secret(text, origin)
    for number, line in enumerate(text.splitlines(), start=1):
        found = _COMMENT.search(line)
        if found and is_secret_value(found[1], found[2]):
            raise _looks_like(f"{origin}:{number}: {found[1]}, in a comment,")


def check_variable(name: str, value: str, origin: str) -> None:
    """Refuse a secret in an environment variable. Raises RequestError."""
    if is_secret_value(name, value):
        raise _looks_like(f"{origin} {name}")
    check_no_secret(value, f"{origin} {name}")
    if name.lower().endswith("proxy") and _PROXY_PAIR.search(value):
        raise _looks_like(f"{origin} {name} has a password, which")
    _check_assignments(value, f"{origin} {name}", is_shell=False)


def is_secret_variable(name: str, value: str) -> bool:
    """Whether an environment variable has a secret, by its name or its value."""
    try:
        check_variable(name, value, "")
    except RequestError:
        return True
    return False


def check_line(line: str, origin: str, is_shell: bool) -> None:
    """Refuse a line of options or of the shell that has a secret; the latter may say where to read it from.

    Raises RequestError.
    """
    _check_assignments(line, origin, is_shell)
    check_no_secret(line, origin)
    for name, value in _given(line):
        if is_secret_value(name.strip("-"), value.strip("\"'")):
            raise _looks_like(f"{origin} {name.strip('-')} ...")
    if _COMMAND.search(line):
        raise _looks_like(f"{origin} has a password, which")


def check_script(text: str, origin: str) -> None:
    """Refuse a script that has a secret. Raises RequestError.

    A comment is prose ("# The password: ask the admins"): only what is assigned in it counts.
    """
    check_no_secret(text, origin)
    for number, line in enumerate(text.splitlines(), start=1):
        where = f"{origin} in line {number}"
        if _PROSE.match(line):
            _check_assignments(line, where, is_shell=True)
        else:
            check_line(line, where, is_shell=True)


def _given(line: str) -> Iterator[tuple[str, str]]:
    """The names and values in a line that are given without '='."""
    for pattern in (_NAMED, _ENTRY, _DEFAULT):
        yield from ((match[1], match[2]) for match in pattern.finditer(line))
    for match in _GIVEN.finditer(line):
        yield match[1] or match[3], match[2] or match[4]


def _check_assignments(line: str, origin: str, is_shell: bool) -> None:
    for found in ASSIGNMENT.finditer(line):
        if not is_secret(found[1]) or (is_shell and REFERENCE.match(line, found.end())):
            continue
        name = found[1].lstrip("-")
        value = line[found.end() :].split(maxsplit=1)[0].split(",")[0]
        if is_secret_value(name, value.strip("\"'")):
            raise _looks_like(f"{origin} {name}=...")


def _looks_like(what: str) -> RequestError:
    return RequestError(f"{what} looks like a secret, and would be written into the job folder: {_advice(what)}")


def _advice(what: str) -> str:
    """What to do, by the option that ``what`` begins with."""
    option = what.split(maxsplit=1)[0].rstrip(",") if what.strip() else ""
    if option in ("--engine", "engine"):
        return _OF_THE_ENGINE
    return _LEAVE_OUT if _NO_VARIABLE.fullmatch(option) else ADVICE


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            yield from _texts(key)
            yield from _texts(one)
    elif isinstance(value, list | tuple | set | frozenset):
        for one in value:
            yield from _texts(one)
