"""Changes a module of another package when it is imported, and imports nothing before that.

A script may set variables first, which torch and vLLM read when they are imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

Change = Callable[[Any], None]


def when_imported(name: str, change: Change) -> None:
    """Call ``change`` with that module as soon as it is imported, before anybody takes names from it."""
    if name in sys.modules:
        change(sys.modules[name])
    else:
        sys.meta_path.insert(0, _Once(name, change))


class _Once(MetaPathFinder):
    """Finds one module, once, as the other finders do."""

    def __init__(self, name: str, change: Change) -> None:
        self._name, self._change = name, change

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        """The module's spec, whose loader also makes the change; None for any other module."""
        if name != self._name:
            return None
        sys.meta_path.remove(self)
        specs = (finder.find_spec(name, path, target) for finder in tuple(sys.meta_path))
        spec = next((one for one in specs if one is not None), None)
        if spec is not None and spec.loader is not None:
            _extend(spec.loader, self._change)
        return spec


def _extend(loader: Any, change: Change) -> None:
    run = loader.exec_module

    def exec_module(module: Any) -> None:
        run(module)
        change(module)

    loader.exec_module = exec_module
