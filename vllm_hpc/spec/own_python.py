"""The words that start a module of ours in a process of its own."""

from __future__ import annotations

import sys


def module_argv(module: str, *words: str) -> list[str]:
    """This Python, which runs that module and imports nothing from the working directory.

    ``-m`` alone puts the working directory first: in a folder that others write to, that runs what they left there.
    """
    return [sys.executable, "-P", "-m", module, *words]
