"""Scripts that look at what they wait for more often: tests that run one wait less."""

from __future__ import annotations

import re


def brisk(script: str) -> str:
    """The script, with a tenth of a second between two looks. Limits in seconds stay as they are."""
    return re.sub(r"^( +)sleep (?:1|0\.5)$", r"\1sleep 0.1", script, flags=re.MULTILINE)
