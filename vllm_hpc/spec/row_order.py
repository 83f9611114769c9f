"""--order: the order in which a job's rows run. Results come in the input's order, whichever it is."""

from __future__ import annotations

from typing import Literal

# ``prefix``: rows whose prompts begin alike run next to each other; ``input``: as they are in the input.
Order = Literal["prefix", "input"]
PREFIX: Order = "prefix"
INPUT: Order = "input"
