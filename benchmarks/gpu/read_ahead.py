"""What it gives to read the weights' files while vLLM is imported: cold starts of jobs, with it and without, in turns.

    python -m benchmarks.gpu.read_ahead --shape llama-8b --times 3 --work /tmp/gpu

Files of random bytes, dropped from the page cache before each start. Without: --engine safetensors_load_strategy=lazy,
as vLLM does by itself but on NFS and Lustre. Seconds of the rank: import, load, and of that the weights.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from benchmarks.gpu.load import drop_from_page_cache, write_weights
from benchmarks.gpu.results import spread
from benchmarks.gpu.shapes import make, shape_parser

WAYS = {"without": ["--engine", "safetensors_load_strategy=lazy"], "read ahead": []}


def main() -> None:
    """Write the files, start in turns, and print a table; the first start of all only compiles."""
    given = shape_parser(__doc__, times=3).parse_args()
    folder = make(given.shape, given.work / given.shape)
    if not (folder / "model.safetensors.index.json").exists():
        write_weights(folder)
    (given.work / "rows.txt").write_text("a\nb\n")
    start(folder, given.work / "runs", [])
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(given.times):
        for way, options in WAYS.items():
            found[way].append(start(folder, given.work / "runs", options))
            print(f"{way}: {json.dumps(found[way][-1])}", flush=True)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e9
    print(f"| {size:.1f} GB, cold | import | load | of it weights | import and load |\n{'| --- ' * 5}|")
    for way, starts in found.items():
        cells = [spread([one[name] for one in starts]) for name in ("import", "load", "weights")]
        print(f"| {way} | {' | '.join(cells)} | {spread([one['import'] + one['load'] for one in starts])} |")


def start(folder: Path, jobs: Path, options: list[str]) -> dict[str, float]:
    """Timings of the one rank of a job over two rows, whose files are on the disk only."""
    drop_from_page_cache(folder)
    name = f"job-{len(list(jobs.glob('*')))}"
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(folder), "--input", str(jobs.parent / "rows.txt")]
    words += ["--wait", "--scheduler", "local", "--nodes", "1", "--gpus-per-node", "1", "--max-tokens", "4"]
    words += ["--engine", "max_model_len=4096", "--job-dir", str(jobs), "--name", name, *options]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
    timings: dict[str, float] = json.loads((jobs / name / "ranks" / "rank-0.json").read_bytes())["timings"]
    return timings


if __name__ == "__main__":
    main()
