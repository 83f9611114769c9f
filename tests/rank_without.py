"""Runs one rank of a job on a vLLM that lacks the names that are given, and one name of every other patch.

    python -m tests.rank_without FOLDER [NAME ...]

Without a name, it runs on vLLM as it is.
"""

from __future__ import annotations

import importlib
import sys

import msgspec

from vllm_hpc.engine.rank import run
from vllm_hpc.engine.vllm_patches.table import PATCHES

# What vLLM imports as the engine starts, and takes some of these names from.
LATE = ("vllm.renderers.hf", "vllm.v1.worker.cpu_worker")


def main() -> None:
    folder, *removed = sys.argv[1:]
    if removed:
        take_away(removed)
    run(folder)


def take_away(removed: list[str]) -> None:
    """What vLLM itself needs, every other patch is told to need under a name that does not exist."""
    named = {one.partition(":")[0] for patch in PATCHES.values() for one in patch.names}
    for name in [*sorted(named), *LATE]:
        importlib.import_module(name)
    for patch in PATCHES.values():
        if not set(removed).intersection(patch.names):
            PATCHES[patch.name] = msgspec.structs.replace(patch, names=("vllm:renamed",))
    for name in removed:
        module, _, attribute = name.partition(":")
        delattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    main()
