"""Times `vllm-hpc submit` to Slurm beside a bare `sbatch` of the same script plus the start of a Python interpreter.

Needs a Slurm that answers (tests/slurm/cluster.sh up; export "$(tests/slurm/cluster.sh env)"). Jobs are held, and
cancelled at the end. Run: .venv/bin/python benchmarks/submit_cost.py
Aim: at most 3x. The import of click, Jinja and submitit alone costs more, and is timed beside it. Whole
processes, wall time, in turns, since machines are shared and noisy.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAIRS = 15
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 1024, "num_hidden_layers": 16, "num_attention_heads": 16,
    "intermediate_size": 4096, "vocab_size": 32000,
}  # fmt: skip


def seconds(argv: list[str], cwd: Path) -> float:
    began = time.perf_counter()
    subprocess.run(argv, check=True, cwd=cwd, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        (work / "model").mkdir()
        (work / "model" / "config.json").write_text(json.dumps(CONFIG))
        ours = [sys.executable, "-m", "vllm_hpc", "submit", "model", "--scheduler", "slurm", "--directive=--hold"]
        seconds([*ours, "--name", "first"], work)
        sbatch = ["sbatch", "--parsable", str(work / "runs" / "first" / "script.sbatch")]
        interpreter = [sys.executable, "-c", "pass"]
        libraries = [sys.executable, "-c", "import click, jinja2, msgspec, submitit"]
        commands = (ours, sbatch, interpreter, libraries)
        rows = [tuple(seconds(command, work) for command in commands) for _ in range(PAIRS)]
        subprocess.run(["scancel", "--me"], check=True)
    submit, bare, python, floor = (statistics.median(column) for column in zip(*rows, strict=True))
    print(
        f"vllm-hpc submit {submit * 1000:.0f} ms; sbatch {bare * 1000:.0f} ms + python {python * 1000:.0f} ms; "
        f"ratio {submit / (bare + python):.1f} ({PAIRS} pairs); python with only the libraries {floor * 1000:.0f} ms"
    )


if __name__ == "__main__":
    main()
