"""Put each fault of faults.toml into a copy of the tree, and see whether a test fails there.

    python -m tests.faults                    # all, against the fast tests, and then the slower ones of their rooms
    python -m tests.faults state-02 claims    # those whose names begin like this
    python -m tests.faults --fast             # against the fast tests alone

First the fast tests of the fault's room, then all fast tests, then what `make test` has of the room beside them. Caught
means that a test failed. Prints a line for each fault, and exits with 1 where more than two survive.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import msgspec

ROOT = Path(__file__).parents[2]
FAST = "not ranks and not vllm and not slurm and not pbs and not slow and not full"
REST = "(ranks or slurm or pbs or slow) and not vllm and not full"
MOST_SURVIVORS = 2
_LEFT_OUT = (".git", ".venv*", "runs", "__pycache__", ".*_cache", ".whl", ".hypothesis")
# The tests that speak of a room: by name, of the fast ones, and of those that start ranks.
ROOMS = Path(__file__).with_name("rooms.toml")


class Fault(msgspec.Struct, frozen=True):
    """One change of the product, and whom it would harm."""

    name: str
    room: str
    file: str
    old: str
    new: str
    harm: str


def read_faults() -> list[Fault]:
    """All of them. Raises ValueError where one no longer fits its file."""
    path = Path(__file__).with_name("faults.toml")
    faults = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8"))["fault"], list[Fault])
    for fault in faults:
        if (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) != 1:
            raise ValueError(f"{fault.name}: its old text must occur once in {fault.file}: mend faults.toml")
    return faults


def catch(fault: Fault, tree: Path, only_fast: bool) -> str | None:
    """The first test that fails with the fault in ``tree``, None where none does."""
    file = tree / fault.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(fault.old, fault.new), encoding="utf-8")
    room = tomllib.loads(ROOMS.read_text(encoding="utf-8"))[fault.room]
    fast, slow = room["fast"], room["ranks"]
    try:
        return (
            _first_failure(tree, FAST, _paths(tree, fast))
            or _first_failure(tree, FAST, ["tests"])
            or (_first_failure(tree, REST, _paths(tree, slow)) if slow and not only_fast else None)
        )
    finally:
        file.write_text(whole, encoding="utf-8")


def _paths(tree: Path, names: list[str]) -> list[str]:
    found = [path for name in names for path in (f"tests/{name}", f"tests/{name}.py") if (tree / path).exists()]
    return found or ["tests"]


def _first_failure(tree: Path, marks: str, paths: list[str]) -> str | None:
    environment = {**os.environ, "PYTHONPATH": str(tree), "CI": "true"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-n", "2", "--dist", "loadgroup", "-m", marks, *paths],
        cwd=tree, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode in (0, 5):  # all passed; none was selected
        return None
    # Stopped at its first failure, xdist exits as if interrupted, and names it in the heading of its report alone.
    names = re.findall(r"^_+ (test_.+?) _+$", done.stdout, re.MULTILINE)
    if not re.search(r"\b[1-9]\d* failed\b", done.stdout) or not names:
        raise RuntimeError(f"the tests did not run: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return str(names[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    parser.add_argument("names", nargs="*", help="what the names of the faults begin with")
    parser.add_argument("--fast", action="store_true", help="only make test-fast")
    given = parser.parse_args()
    faults = [fault for fault in read_faults() if not given.names or fault.name.startswith(tuple(given.names))]
    survivors = 0
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-faults-") as work:
        tree = Path(work) / "tree"
        shutil.copytree(ROOT, tree, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        if broken := _first_failure(tree, FAST, ["tests"]):
            sys.exit(f"{broken} fails without any fault: it would be taken for one that catches them")
        for fault in faults:
            began = time.monotonic()
            test = catch(fault, tree, given.fast)
            survivors += test is None
            print(f"{fault.name}: {test or 'SURVIVES'} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"{len(faults) - survivors} of {len(faults)} caught")
    sys.exit(1 if survivors > MOST_SURVIVORS else 0)


if __name__ == "__main__":
    main()
