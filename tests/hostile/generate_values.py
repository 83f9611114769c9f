"""Hostile values: texts, numbers and JSON that shells, terminals, parsers and file systems trip over."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from tests.hostile.cases import CANARY

_RUN = f"touch {CANARY}"
# A shell that sees one of these unquoted, or in quotes that it ends, runs the command.
EXPANSIONS = (
    f"$({_RUN})", f"`{_RUN}`", f"; {_RUN};", f"| {_RUN}", f"&& {_RUN}", f"\n{_RUN}\n", f'"; {_RUN}; "', f"'; {_RUN}; '",
    f"'$({_RUN})'", f"\\$({_RUN})", f"x\r\n{_RUN}", f"$(({_RUN}))", f"${{x:=$({_RUN})}}", f"a[$({_RUN})]", f">{CANARY}",
    f"EOF\n{_RUN}", f"<({_RUN})", f"a' $({_RUN}) 'b", "$'\\n" + _RUN + "'", f"#\n{_RUN}",
)  # fmt: skip
# Those that options take as they are.
MILD = (
    f"$({_RUN})", f"`{_RUN}`", f"x; {_RUN}; x", f"x | {_RUN}", f"x && {_RUN}", f"'; {_RUN}; '", f"a' $({_RUN}) 'b",
    f"a[$({_RUN})]", f"${{x:=$({_RUN})}}", f"a > {CANARY}", f"<({_RUN})", f"# {_RUN}", "it's", 'a "b"', "naïve",
    "日本語", "*",
    "a?", "{a,b}", "$HOME", "100%", "a=b", "a,b", "a:b", "~", "!!", "a  b", "-x", "é" * 50,
)  # fmt: skip
# What a terminal obeys.
ESCAPES = (
    "\x1b[2J\x1b[H", "\x1b]52;c;Y2F0\x07", "\x1b]0;title\x07", "\x9b31m", "\x1bP+q544e\x1b\\", "a\rb", "\x07",
    "\x08\x08",
    "\u202eevil", "\u2066x\u2069", "\x1b[31mred\x1b[0m",
)  # fmt: skip
_ODD = (
    "", " ", "-", "--", "--help", "-rf", ".", "..", "/", "~", "~nobody-here", "../../x", "a/../../b", "./a b", "*",
    "?", "[",
    "{}", "{{ 7*7 }}", "{% for i in range(3) %}", "%j", "%t%A%a", "%", "%n%s%p", "'", '"', "\\", "\\x00", "$HOME", "${",
    "naïve", "日本語", "\ud83d", "\udcff\udcfe", "\ufeff", "a" * 256, "x" * 5000, "é" * 130, "e\u0301" * 9, "null",
    "true",
    "NaN", "=", "==", "a=", "=b", "a=b=c", ",", ":", "#", "@file", "file:///etc/passwd", "http://[::1", "\t", "a\tb",
    "\0",
    "con\nfig", "0", "-1", "007", "1e9", "0x10", "١٢", "1_000", "9" * 5000, "1" + "0" * 30, "--user=victim",
    "/dev/zero",
    "/dev/stdin", "/proc/self/environ", "/etc/shadow", "a\u2028b", "\u200b", "<script>", "rehearsal", "(none)",
)  # fmt: skip
_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 3, 7, 2**31, 2**31 - 1, 2**63, 2**63 - 1, 2**64, -(2**63) - 1, 10**18, 10**30, 10**300, 0.5, -0.0,
    1e-320,
    1e300, 1.5, 20000, 100_000, 100_001, 10**6, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip


def text(random: Random) -> str:
    """A hostile text, or a plain one with something hostile in it."""
    value = random.choice((EXPANSIONS, ESCAPES, _ODD))
    found = random.choice(value)
    place = random.random()
    if place < 0.15:
        return f"name{found}"
    return f"{found}-name" if place < 0.3 else found


def word(random: Random) -> str:
    """A text that may stand on a command line: no program can be given NUL or half of a pair in UTF-16."""
    return text(random).replace("\0", "\\0").replace("\ud83d", "\udced")


def expansion(random: Random) -> str:
    """A text that runs a command, if a shell sees it."""
    return random.choice(EXPANSIONS)


def mild(random: Random) -> str:
    """A text that nobody has a reason to refuse, although a shell would make something of it."""
    return random.choice(MILD)


def number(random: Random) -> Any:
    """A number at an edge of some type, or past it."""
    return random.choice(_NUMBERS)


def number_word(random: Random) -> str:
    """A number as it is typed; or what is none."""
    if random.random() < 0.3:
        return word(random)
    return random.choice((str(number(random)), "9" * random.choice((20, 400, 5000)), "0" * 50 + "1", "1.", " 4 ", "٣"))


def value(random: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kind = random.randrange(7 if depth else 4)
    if kind < 2:
        return text(random)
    if kind == 2:
        return number(random)
    if kind == 3:
        return random.choice((None, True, False))
    if kind == 4:
        return [value(random, depth - 1) for _ in range(random.randrange(4))]
    if kind == 5:
        return {text(random): value(random, depth - 1) for _ in range(random.randrange(4))}
    return nested(random)


def nested(random: Random) -> Any:
    """A list in a list in a list ..., as deep as a parser that calls itself may not be able to follow."""
    found: Any = []
    for _ in range(random.choice((10, 200))):
        found = [found]
    return found


def json_bytes(given: Any) -> bytes:
    """JSON, also of what is none: NaN, whole numbers of any size, half characters."""
    return json.dumps(given, ensure_ascii=True).encode()


def broken_json(random: Random, given: Any) -> bytes:
    """JSON with something wrong with it, as bytes."""
    whole = json_bytes(given)
    cut = random.randrange(len(whole) + 1)
    return random.choice((
        whole[:cut], whole + b"}", b"\xef\xbb\xbf" + whole, whole.decode().encode("utf-16"), b"\xff\xfe" + whole[:cut],
        whole.replace(b":", b": " + b"[" * 100_000, 1), whole.replace(b"{", b"{\"a\": 1, \"a\": 2, ", 1), b"", b"null",
        b"[]", b"\0" * 50, whole[:cut] + b"\0" + whole[cut:], whole.replace(b'"', b"'"), b"NaN", b'"' + b"x" * 10_000,
        whole.replace(b"1", b"9" * 5000, 1), b" " * 100_000 + whole, random.randbytes(200),
    ))  # fmt: skip


def changed(random: Random, given: Any) -> Any:
    """The JSON value with one value in it replaced, removed, or added."""
    if isinstance(given, dict) and given and random.random() < 0.9:
        key = random.choice(sorted(given))
        kind = random.random()
        if kind < 0.1:
            return {name: one for name, one in given.items() if name != key}
        if kind < 0.2:
            return {**given, text(random): value(random)}
        return {**given, key: changed(random, given[key])}
    if isinstance(given, list) and given and random.random() < 0.7:
        place = random.randrange(len(given))
        return [*given[:place], changed(random, given[place]), *given[place + 1 :]]
    return number(random) if random.random() < 0.4 else value(random)
