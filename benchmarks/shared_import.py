"""Starts with one import of vLLM for all ranks of a node, and with one for each, in turns: seconds, and their ratios.

    VLLM_HPC_LOCAL_QUEUE=off python -m benchmarks.shared_import --ranks 1,2,4 --times 3
    python -m benchmarks.shared_import --shape llama-8b --ranks 1 --times 3                  (a GPU; N ranks: N GPUs)

Each start is a job of two rows through `vllm-hpc submit`, whose ranks are replicas: from the command to its end, and
the slowest rank's launch, import and load. Who begins changes from round to round; one job that is not counted comes
first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu.results import spread
from benchmarks.gpu.shapes import SHAPES, make
from tests.tiny_model import make_tiny_model

PARTS = ("launch", "import", "load")
WAYS = ("on", "off")


def start(model: Path, ranks: int, way: str, work: Path) -> dict[str, float]:
    """Run a job, and return its seconds ("whole") and those of the slowest rank's parts."""
    rows, name = work / "rows.txt", f"{way}-{ranks}-{time.time_ns()}"
    rows.write_text("a\nb\n")
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(rows), "--scheduler", "local"]
    words += ["--gpus-per-node", str(ranks), "--dp", str(ranks), "--tp", "1", "--max-tokens", "8", "--wait"]
    words += ["--env", f"VLLM_HPC_SHARED_IMPORT={way}", "--engine", "load_format=dummy", "--job-dir", str(work)]
    words += ["--engine", "max_model_len=256", "--name", name]
    began = time.perf_counter()
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    whole = time.perf_counter() - began
    ranks_timings = [json.loads(file.read_bytes())["timings"] for file in (work / name / "ranks").glob("rank-*.json")]
    return {"whole": whole, **{part: max(timings[part] for timings in ranks_timings) for part in PARTS}}


def compare(model: Path, ranks: int, times: int, work: Path) -> None:
    """Start it both ways in turns, and print what that took."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    start(model, ranks, WAYS[0], work)
    for number in range(times):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            seconds = start(model, ranks, way, work)
            found[way].append(seconds)
            print(f"{ranks} ranks, {way}: {json.dumps(seconds)}; load {os.getloadavg()[0]:.1f}", flush=True)
    for way, all_seconds in found.items():
        cells = [spread([seconds[part] for seconds in all_seconds]) for part in ("whole", *PARTS)]
        print(f"| {ranks} | {way} | " + " | ".join(cells) + " |", flush=True)
    ratios = [on["whole"] / off["whole"] for on, off in zip(found["on"], found["off"], strict=True)]
    print(
        f"{ranks} ranks: on / off {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
    )


def main() -> None:
    """Compare for each number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("tiny", *SHAPES), default="tiny")
    parser.add_argument("--ranks", default="1,2,4", help="how many replicas of one rank: a table for each")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("/tmp/shared-import"))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    model = given.work / given.shape
    if given.shape != "tiny":
        make(given.shape, model)
    elif not model.exists():
        make_tiny_model(model)
    print("| ranks | shared | whole job, s | launch, s | import, s | load, s |\n| --- | --- | --- | --- | --- | --- |")
    for ranks in map(int, given.ranks.split(",")):
        compare(model, ranks, given.times, given.work)


if __name__ == "__main__":
    main()
