"""A cache of the Hub for jobs without network: a tiny random model, under the name that the seed's code asks for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What the seed's code wants of meta-llama/Llama-3.1-8B.
_NAME, _CONTEXT = "models--meta-llama--Llama-3.1-8B", 32768
_REVISION = "0" * 40
# Of a small machine: ranks that share cores would spin on them, and a share of all memory is too much.
ON_THE_CPU = {
    "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}  # fmt: skip


def make_hub_cache(home: Path) -> dict[str, str]:
    """Make it, and return the variables with which ranks find it, and run on the CPU."""
    model = home / "hub" / _NAME
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text(_REVISION)
    words = [Path(__file__).parents[1] / "tiny_model.py", model / "snapshots" / _REVISION, _CONTEXT]
    subprocess.run([sys.executable, "-W", "ignore", *map(str, words)], check=True, capture_output=True)
    return {"HF_HOME": str(home), **ON_THE_CPU}
