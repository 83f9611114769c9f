"""Process time (user + system) of `vllm-hpc plan` on a local model folder, without --input; aim: under 250 ms.

Run: .venv/bin/python benchmarks/plan_cost.py
Beside it, what Python and the libraries alone take; whole processes, in turns, since machines are shared and noisy.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

RUNS = 15
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip


def process_seconds(argv: list[str], cwd: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "model").mkdir()
        (work / "model" / "config.json").write_text(json.dumps(CONFIG))
        plan = [sys.executable, "-m", "vllm_hpc", "plan", "model", "--scheduler", "slurm", "--gpu", "h100-80"]
        libraries = [sys.executable, "-c", "import click, msgspec, rich.console, rich.table"]
        commands = {"plan": plan, "plan --json": [*plan, "--json"], "python and the libraries alone": libraries}
        rows = [[process_seconds(argv, work) for argv in commands.values()] for _ in range(RUNS)]
    for what, column in zip(commands, zip(*rows, strict=True), strict=True):
        print(f"{what}: {statistics.median(column) * 1000:.0f} ms (median of {RUNS}, most {max(column) * 1000:.0f})")


if __name__ == "__main__":
    main()
