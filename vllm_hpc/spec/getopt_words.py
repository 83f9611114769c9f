"""How getopt and argparse read the words of a command line, for the tables of options that vllm-hpc sets itself."""

from __future__ import annotations

from collections.abc import Iterator


def is_long(word: str, name: str) -> bool:
    """Whether a word is that long option or an abbreviation of it: getopt accepts --arr for --array."""
    given = word[2:].split("=")[0] if word.startswith("--") else ""
    return bool(given) and name.startswith(given)


def letters(word: str, flags: frozenset[str]) -> str:
    """The one-letter options in a word: W of -W, Ha of -Ha0-3, N of -N2. ``flags`` are letters without a value."""
    if not word.startswith("-") or word.startswith("--"):
        return ""
    value = next((place for place, letter in enumerate(word[1:], start=1) if letter not in flags), len(word))
    return word[1 : value + 1]


def options(words: list[str], flags: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Each one-letter option and its value, as getopt reads them; the value is empty for a flag.

    Raises ValueError, which holds the word, for one that is no such option.
    """
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word.startswith("--") or word == "-":
            raise ValueError(word)
        left = word[1:]
        while left:
            letter, left = left[0], left[1:]
            if letter in flags:
                yield letter, ""
                continue
            yield letter, left or next(rest, "")
            left = ""
