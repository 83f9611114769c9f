"""Script: a rendered script, which a notebook shows highlighted."""

from __future__ import annotations

import msgspec

from vllm_hpc.spec.drawn import Drawn
from vllm_hpc.spec.visible import one_line
from vllm_hpc.spec.words import counted


class Script(Drawn, msgspec.Struct, frozen=True):
    """A script as it is submitted, and the name of its file; ``str`` gives the text."""

    text: str
    name: str

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Script {one_line(self.name, 80)}: {counted(self.text.count(chr(10)), 'line')}, print() shows them"
