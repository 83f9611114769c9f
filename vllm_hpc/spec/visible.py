"""What may be shown of text: without the characters by which a terminal or a reader could be misled.

Names, reasons, errors and logs come from schedulers, ranks, models and other users. An escape sequence in one could
move the cursor over what was printed, write the clipboard (OSC 52), or have the terminal answer as if the user had
typed; a control of direction (bidi) makes text read as other text.
"""

from __future__ import annotations

import re

REPLACEMENT = "\ufffd"
# Controls of C0 but for newline and tab, DEL and C1, and those of Unicode that set the direction or end a line.
BEYOND_ASCII = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069"
_CONTROL = re.compile(f"[\x00-\x08\x0b-\x1f{BEYOND_ASCII}]")


def visible(text: str) -> str:
    """The text with U+FFFD for every control character but newline and tab."""
    return _CONTROL.sub(REPLACEMENT, text)


def one_line(text: str, most: int = 400) -> str:
    """The same in one line of at most ``most`` characters, and in UTF-8, which the name of a file need not be."""
    joined = " ".join(in_utf8(visible(text[: 4 * most])).split())
    return joined if len(joined) <= most and len(text) <= 4 * most else joined[: most - 1] + "…"


def in_utf8(text: str) -> str:
    """The text as JSON can hold it: with a question mark for what is not UTF-8 in the name of a file."""
    return text.encode("utf-8", "replace").decode()
