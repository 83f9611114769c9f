"""What a rank imports before it makes its engine, and what bytecode that is kept saves of it.

    python -m benchmarks.imports                # a table: seconds, modules, and who asks, by package
    python -m benchmarks.imports --rounds 3     # without bytecode, kept on the node, out of the archive, in turns

The table is of `python -X importtime`, which slows an import down: its parts are comparable, its sum is not. A module
belongs to the package whose import asked for it first; "alone" is the package's own modules only. The rounds import as
a rank does, each in a new process that has no other bytecode, in folders of its own under ``--work``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.gpu.results import spread

# What VllmMaker.load imports (vllm_hpc/engine/vllm_engine.py).
IMPORTS = """
import torch
import vllm
from vllm_hpc.engine.rows import prompts
from vllm_hpc.engine.startup import make_engine
"""
ROUND = f"""
import json, sys, time
began = time.perf_counter()
kept = None
if sys.argv[1] == "kept":
    from vllm_hpc.engine.startup import bytecode
    bytecode._is_lost = lambda home: True
    sys.pycache_prefix = None
    kept = bytecode.Bytecode(publishes=True)
    kept.restore()
restored = time.perf_counter()
{IMPORTS}
imported = time.perf_counter()
if kept: kept.keep()
print(json.dumps([restored - began, imported - restored, time.perf_counter() - imported]))
"""
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \| ( *)(\S+)")
_NAMES = ("nothing kept", "first, which keeps it", "kept on the node", "another node")


class Module(NamedTuple):
    """A module: microseconds of its own, and with all that it imports; its depth, and its name."""

    own: int
    whole: int
    depth: int
    name: str

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]


def modules(log: str) -> list[Module]:
    """What -X importtime has written: a module follows all that it imports."""
    found = (_LINE.match(line) for line in log.splitlines())
    return [Module(int(m[1]), int(m[2]), len(m[3]) // 2, m[4]) for m in found if m]


def outermost(found: list[Module]) -> Iterator[tuple[Module, str]]:
    """The modules whose package has not asked for them itself, each with the one that did."""
    above: list[Module] = []
    for module in reversed(found):
        while above and above[-1].depth >= module.depth:
            above.pop()
        if all(one.package != module.package for one in above):
            yield module, above[-1].name if above else ""
        above.append(module)


def table(found: list[Module], most: int) -> str:
    """The packages that cost most, as Markdown."""
    alone, count, whole = Counter[str](), Counter[str](), Counter[str]()
    asked: dict[str, tuple[int, str]] = {}
    for module in found:
        alone[module.package] += module.own
        count[module.package] += 1
    for module, by in outermost(found):
        whole[module.package] += module.whole
        asked[module.package] = max(asked.get(module.package, (0, "")), (module.whole, by))
    lines = [
        "| package | alone, s | with what it imports, s | modules | asked for by |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, _ in alone.most_common(most):
        by = f"`{asked[name][1]}`" if asked[name][1] else "the rank"
        lines.append(f"| {name} | {alone[name] / 1e6:.2f} | {whole[name] / 1e6:.2f} | {count[name]} | {by} |")
    total = f"{len(found)} modules, {sum(alone.values()) / 1e6:.1f} s"
    return "\n".join([total, *lines])


def _round(work: Path, way: str, node: str) -> list[float]:
    """Import once; seconds to restore, to import and to keep."""
    (work / node).mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "XDG_CACHE_HOME": str(work), "TMPDIR": str(work / node)}
    environment["PYTHONPYCACHEPREFIX"] = str(work / "nothing")
    words = [sys.executable, "-c", ROUND, way]
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    times: list[float] = json.loads(done.stdout.splitlines()[-1])
    return times


def rounds(work: Path, times: int) -> None:
    """Import in turns, and print a table of medians."""
    found: dict[str, list[list[float]]] = {name: [] for name in _NAMES}
    for _ in range(times):
        here = Path(tempfile.mkdtemp(dir=work))
        for name, way, node in zip(_NAMES, ("nothing", "kept", "kept", "kept"), ("a", "a", "a", "b"), strict=True):
            found[name].append(_round(here, way, node))
            print(name, found[name][-1], flush=True)
        shutil.rmtree(here)
    print("| bytecode | restore, s | import, s | keep, s |\n| --- | --- | --- | --- |")
    for name, times_of in found.items():
        print(f"| {name} | " + " | ".join(spread(list(part)) for part in zip(*times_of, strict=True)) + " |")


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--most", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()))
    given = parser.parse_args()
    if given.rounds:
        rounds(given.work, given.rounds)
        return
    words = [sys.executable, "-X", "importtime", "-c", IMPORTS]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=True)
    print(table(modules(done.stderr), given.most))


if __name__ == "__main__":
    main()
