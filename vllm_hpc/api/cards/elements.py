"""The parts that cards are made of. All text passes through ``tag``, which escapes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import isfinite
from typing import TypeVar

from markupsafe import Markup, escape

from vllm_hpc.api.cards.style import STYLE
from vllm_hpc.spec.visible import visible
from vllm_hpc.spec.words import rate

T = TypeVar("T")
# Longer texts of others are cut: an error may hold a whole prompt.
MOST_CHARACTERS = 4000
# Rows of a table, of which the middle is left out.
MOST_ROWS = 24
_ENDLESS = {"br", "rect"}


def tag(name: str, *children: str, class_: str = "", **attributes: str) -> Markup:
    """An element. Children and values that are no Markup are escaped; an underscore in an attribute is a hyphen."""
    given = {**({"class": class_} if class_ else {}), **attributes}
    words = Markup("").join(
        Markup(' {}="{}"').format(Markup(key.rstrip("_").replace("_", "-")), safe(value))
        for key, value in given.items()
    )
    if name in _ENDLESS and not children:
        return Markup("<{}{}/>").format(Markup(name), words)
    return Markup("<{0}{1}>{2}</{0}>").format(Markup(name), words, join(children))


def safe(text: str) -> Markup:
    """Text that cannot be taken for HTML, nor for text in another direction."""
    if isinstance(text, Markup):
        return text
    # A lone surrogate (of a file name that is not UTF-8) could not be sent to a browser.
    return escape(visible(str(text)).encode("utf-8", "replace").decode())


def join(parts: Iterable[str], between: str = "") -> Markup:
    """One after another, each escaped."""
    return safe(between).join(safe(part) for part in parts)


def said(text: str, class_: str = "") -> Markup:
    """Text of others, cut if it is long: it may have any direction."""
    shown = text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} … ({len(text):,} characters)"
    return tag("bdi", shown, class_=class_)


def frame(*parts: str) -> str:
    """A whole card, with its style."""
    return str(tag("div", tag("style", Markup(STYLE)), *parts, class_="vh-card"))


def head(kind: str, name: str, *others: str) -> Markup:
    """The first line: what it is, its name, and more."""
    return tag("div", tag("span", kind, class_="vh-kind"), tag("span", said(name), class_="vh-name"), *others,
               class_="vh-head")  # fmt: skip


_LOOKS = {"COMPLETED": "ok", "RUNNING": "run", "PENDING": "wait", "PARTIAL": "wait", "PREEMPTED": "wait",
          "FAILED": "bad", "TIMEOUT": "bad", "CANCELLED": "none"}  # fmt: skip


def look_of(state: str) -> str:
    """The colour of a state: ok, run, wait, bad or none."""
    return _LOOKS.get(state, "none")


def pill(state: str, look: str = "") -> Markup:
    """A state in its colour, and in words."""
    return tag("span", state, class_=f"vh-pill vh-{look or look_of(state)}")


def bar(parts: Sequence[tuple[str, float]], whole: float, words: str) -> Markup:
    """Shares of a whole, by their colours; ``words`` say the same."""
    spans = [
        tag("span", class_=f"vh-f-{look}", style=f"width:{percent(part, whole)}") for look, part in parts if part > 0
    ]
    tall = " vh-tall" if len(parts) > 2 else ""
    return tag("div", *spans, class_=f"vh-bar{tall}", role="img", aria_label=words, title=words)


def percent(part: float, whole: float) -> str:
    """A share for a style, from 0% to 100%."""
    share = part / whole if whole > 0 and isfinite(part) and isfinite(whole) else 0.0
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"


def legend(parts: Iterable[tuple[str, str]]) -> Markup:
    """The colours of a bar, each with its words."""
    keys = [tag("span", tag("span", class_=f"vh-key vh-f-{look}"), words) for look, words in parts]
    return row(*keys)


def row(*parts: str) -> Markup:
    """Short facts beside each other, empty ones left out."""
    return tag("div", *(tag("span", part) for part in parts if part), class_="vh-row")


def section(title: str, *parts: str) -> Markup:
    """A part of a card under a title."""
    return join([tag("div", title, class_="vh-sect"), *parts])


def items(texts: Sequence[str], most: int = MOST_ROWS) -> Markup:
    """A list of sentences."""
    shown = [tag("li", said(text)) for text in texts[:most]]
    if len(texts) > most:
        shown.append(tag("li", f"and {len(texts) - most} more", class_="vh-dim"))
    return tag("ul", *shown, class_="vh-list")


def folded(title: str, *parts: str, is_open: bool = False) -> Markup:
    """A part that is shown on a click; of HTML's own, without a script."""
    more = {"open": "open"} if is_open else {}
    return tag("details", tag("summary", title), *parts, **more)


def note(text: str, look: str = "none") -> Markup:
    """A sentence of others that should be seen."""
    return tag("div", said(text), class_=f"vh-said vh-{look}")


# A line of a table, or how many lines are left out there.
Line = Sequence[str] | int


def table(titles: Sequence[str], lines: Sequence[Line], noun: str, numbers: str = "", long: str = "") -> Markup:
    """Lines under titles; ``numbers`` and ``long`` name the columns of numbers and of texts that may be long.

    Columns without anything in them are left out.
    """
    kinds = {**dict.fromkeys(numbers.split(","), "vh-num"), **dict.fromkeys(long.split(","), "vh-long")}
    full = [line for line in lines if not isinstance(line, int)]
    columns = [place for place in range(len(titles)) if not full or any(line[place] for line in full)]
    looks = {place: kinds.get(titles[place], "") for place in columns}
    top = tag("tr", *(tag("th", titles[place], class_=looks[place], scope="col") for place in columns))
    shown = []
    for line in lines:
        if isinstance(line, int):
            words = f"… {line:,} more {noun} …"
            shown.append(tag("tr", tag("td", words, class_="vh-dim", colspan=str(len(columns)))))
        else:
            shown.append(tag("tr", *(tag("td", line[place], class_=looks[place]) for place in columns)))
    return tag("div", tag("table", tag("thead", top), tag("tbody", *shown), class_="vh-t"), class_="vh-wide")


def lines_of(things: Sequence[T], line: Callable[[T], Sequence[str]]) -> list[Line]:
    """The line of each thing; of many the middle is left out."""
    if len(things) <= MOST_ROWS:
        return [line(one) for one in things]
    half = MOST_ROWS // 2
    return [*map(line, things[:half]), len(things) - 2 * half, *map(line, things[-half:])]


def number(value: float | None, unit: str = "", digits: int = 0) -> str:
    """A number with its unit; empty if it is not known."""
    if value is None or not isfinite(value):
        return ""
    text = f"{value:,.{digits}f}"
    return f"{text} {unit}" if unit else text


def speed(tokens_per_s: float | None, unit: str = "tokens/s") -> str:
    """Tokens per second; empty if that is not known."""
    return f"{words} {unit}".rstrip() if (words := rate(tokens_per_s)) else ""
