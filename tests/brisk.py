"""Scripts for tests that run one without its scheduler: whole, to be edited, and quick to see what they wait for."""

from __future__ import annotations

import re

from vllm_hpc.schedulers.lifecycle import lifecycle_text

READS = 'eval "$lifecycle"\n'


def whole(script: str) -> str:
    """The script with the text of lifecycle.sh where it runs that: what a test edits may stand in either."""
    assert script.count(READS) == 1
    return script.replace(READS, lifecycle_text())


def brisk(script: str) -> str:
    """The script, with a tenth of a second between two looks. Limits in seconds stay as they are."""
    return re.sub(r"^( +)sleep (?:1|0\.5)$", r"\1sleep 0.1", script, flags=re.MULTILINE)
