"""How many sequences at once, and tokens in a step: ``1024`` or ``1792x65536``, one of several in the same engine.

The engine starts with the most of each, and CUDA graphs for the most sequences; then the rounds of all of them take
turns. So they differ in nothing but the limits, and one start is enough.

AMD's MLPerf settings (5.1, closed/AMD): 1792 sequences and 40,960 tokens for Llama-2-70B on MI300X, 2700 and 65,536 on
MI325X, 4736 and 51,200 for Mixtral-8x7B.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Self

_WAY = "attempt@"
_FORM = re.compile(r"([1-9][0-9]{0,5})(?:x([1-9][0-9]{0,6}))?")


class Limits(NamedTuple):
    """``tokens`` None: the engine's own."""

    sequences: int
    tokens: int | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """From the command line. Raises ValueError."""
        found = _FORM.fullmatch(text)
        if not found:
            raise ValueError(f"{text!r} must be SEQUENCES or SEQUENCESxTOKENS, such as 1024 or 1792x65536")
        limits = cls(int(found[1]), int(found[2]) if found[2] else None)
        if limits.tokens is not None and limits.tokens < limits.sequences:
            raise ValueError(f"{text!r}: vLLM needs at least as many tokens in a step as sequences")
        return limits

    @classmethod
    def named(cls, way: str) -> Self | None:
        """What a way of a case stands for, None where it has no limits of its own."""
        return cls.read(way.removeprefix(_WAY)) if way.startswith(_WAY) else None

    @property
    def way(self) -> str:
        """The name of a case's way."""
        return _WAY + (f"{self.sequences}x{self.tokens}" if self.tokens else str(self.sequences))
