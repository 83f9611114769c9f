"""Times `vllm-hpc --help` beside `python -c "import click"`, pair by pair, and prints the ratio of the medians.

Run it with the environment's own Python: .venv/bin/python benchmarks/help_startup.py
Aim: at most 2x, for a login node's every keystroke. Whole processes, user + system time, in pairs that alternate,
since machines are shared and noisy.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

PAIRS = 25


def cpu_seconds(argv: list[str]) -> float:
    before = os.times()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    help_page = [sys.executable, "-m", "vllm_hpc", "--help"]
    import_click = [sys.executable, "-c", "import click"]
    for argv in (help_page, import_click):  # warm the file cache
        cpu_seconds(argv)
    ours, theirs = [], []
    for _ in range(PAIRS):
        ours.append(cpu_seconds(help_page))
        theirs.append(cpu_seconds(import_click))
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f"vllm-hpc --help {a * 1000:.0f} ms, import click {b * 1000:.0f} ms, ratio {a / b:.2f} ({PAIRS} pairs)")


if __name__ == "__main__":
    main()
