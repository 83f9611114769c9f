"""A cache of the Hub for jobs without network: a tiny random model, under the names that jobs/ and the seed ask for.

``python -m tests.programs.hub_cache FOLDER`` makes one to try jobs/ with: HF_HOME=FOLDER HF_HUB_OFFLINE=1.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

# What the seed's code wants of meta-llama/Llama-3.1-8B.
_CONTEXT = 32768
SEEDS = "meta-llama/Llama-3.1-8B"
LARGE = "meta-llama/Llama-3.1-70B"
_REVISION = "0" * 40
# Of a small machine: ranks that share cores would spin on them, and a share of all memory is too much.
ON_THE_CPU = {
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip


def make_hub_cache(home: Path, *names: str) -> dict[str, str]:
    """Make it, with the seed's model if none is named; return the variables with which CPU ranks find it and run."""
    first, *others = (_model(home, name) for name in names or (SEEDS,))
    words = [Path(__file__).parents[1] / "tiny_model.py", first, _CONTEXT]
    subprocess.run([sys.executable, "-W", "ignore", *map(str, words)], check=True, capture_output=True)
    for other in others:
        shutil.copytree(first, other)
    return {"HF_HOME": str(home), **ON_THE_CPU}


def _model(home: Path, name: str) -> Path:
    """The folder of a model in the cache, which is still to be made."""
    model = home / "hub" / f"models--{name.replace('/', '--')}"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(_REVISION)
    return model / "snapshots" / _REVISION


if __name__ == "__main__":
    make_hub_cache(Path(sys.argv[1]), SEEDS, LARGE)
