"""VLLM_HPC_LOCAL_QUEUE, the variable that switches the queue of this machine off, or says how many jobs run at once."""

from __future__ import annotations

import os

from vllm_hpc.spec.errors import RequestError

SETTING = "VLLM_HPC_LOCAL_QUEUE"
NO_QUEUE = 0


def most_at_once() -> int | None:
    """The jobs that may run at once, None if their needs decide, NO_QUEUE if none waits. Raises RequestError."""
    text = os.environ.get(SETTING, "")
    if text in ("", "on", "off"):
        return NO_QUEUE if text == "off" else None
    if not (text.isascii() and text.isdecimal() and 0 < len(text) < 7 and int(text)):
        raise RequestError(
            f"{SETTING} must be off, or how many jobs may run at once on this machine, not {text[:100]!r}"
        )
    return int(text)


def check_setting() -> None:
    """Refuse a value that means nothing, before anything is made. Raises RequestError."""
    most_at_once()
