"""Look for more: python -m tests.hostile SURFACE FIRST LAST runs the cases of these seeds, and prints what is wrong.

With one seed it also prints the case.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import cache
from pathlib import Path

from tests.hostile.desk import make_finished
from tests.hostile.generate import SURFACES, make
from tests.hostile.oracle import judge


def main() -> None:
    """Run the cases."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("surface", choices=(*SURFACES, "all"))
    parser.add_argument("first", type=int)
    parser.add_argument("last", type=int, nargs="?")
    given = parser.parse_args()
    last = given.first if given.last is None else given.last
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-hostile-") as folder:
        finished = cache(lambda: make_finished(Path(folder)))
        for surface in SURFACES if given.surface == "all" else (given.surface,):
            for seed in range(given.first, last + 1):
                if given.last is None:
                    print(make(surface, seed))
                for kind, said in judge(make(surface, seed), Path(folder) / f"{surface}-{seed}", finished):
                    print(f"{surface}-{seed}: {kind}: {said}", flush=True)


if __name__ == "__main__":
    main()
