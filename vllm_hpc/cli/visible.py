"""What may reach a terminal: text without the characters by which it could be told what to do (spec/visible.py)."""

from __future__ import annotations

import io
import re
from typing import TextIO

from vllm_hpc.spec.visible import BEYOND_ASCII
from vllm_hpc.spec.visible import REPLACEMENT as REPLACEMENT
from vllm_hpc.spec.visible import visible as visible

_OUTSIDE_JSON = re.compile(f"[{BEYOND_ASCII}]")
# Colours are only left out: libraries write them into logs. A progress bar begins its line again with a return.
_COLOUR = re.compile(r"\x1b\[[0-9;:]{0,40}m")
_RETURN = re.compile(r"\r+\n?")


def visible_log(text: str) -> str:
    """The same for a log: without colours, and with a newline for each return."""
    return visible(_RETURN.sub("\n", _COLOUR.sub("", text)))


def visible_json(content: bytes) -> bytes:
    """JSON with escapes for what msgspec leaves as it is: in JSON these can only be in strings."""
    return _OUTSIDE_JSON.sub(lambda match: f"\\u{ord(match[0]):04x}", content.decode()).encode()


class VisibleStream(io.TextIOBase):
    """A stream on which nothing but what is visible is written, whoever writes: Python's warnings and logging, too.

    It has no ``buffer``, by which the filter could be passed by.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # an attribute there
        """That of the stream."""
        return self.stream.encoding

    def write(self, text: str, /) -> int:
        """Write what is visible of a text."""
        self.stream.write(visible(text))
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """Its descriptor, for processes that inherit it."""
        return self.stream.fileno()
