"""Notes, in every rank of a campaign, which rows its engine begins and finishes: a rank that is killed cannot say it.

Python imports this by itself where its folder is in PYTHONPATH. state/witness-<rank>.<attempt> has "b<row>" or "f<row>"
a line, of the first rank of a replica only.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any

_LOOP = "vllm_hpc.engine.loop.loop"


class _Watched(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        _watch(module.Loop)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name == _LOOP else None
        if spec is not None and spec.origin is not None:
            spec.loader = _Watched(name, spec.origin)
        return spec


def _watch(loop: Any) -> None:
    step = loop._step

    def watched(self: Any) -> None:
        if self._writer is None:
            step(self)
            return
        before: set[str] = getattr(self, "witnessed", set())
        _note("".join(f"b{row}\n" for row in self._in_flight if row not in before))
        begun = set(self._in_flight)
        step(self)
        self.witnessed = set(self._in_flight)
        _note("".join(f"f{row}\n" for row in begun - self.witnessed))

    loop._step = watched


def _note(text: str) -> None:
    if text:
        os.write(_FILE, text.encode())


# Only ranks are of interest; a rank removes these variables later.
if "VLLM_HPC_FOLDER" in os.environ and "RANK" in os.environ:
    _task, _world = int(os.environ["VLLM_HPC_TASK"]), int(os.environ["WORLD_SIZE"])
    _name = f"witness-{_task * _world + int(os.environ['RANK'])}.{os.environ['VLLM_HPC_ATTEMPT']}"
    _FILE = os.open(f"{os.environ['VLLM_HPC_FOLDER']}/state/{_name}", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    sys.meta_path.insert(0, _Finder())
