"""What a start costs beside bare vLLM's: nothing compiled before, and the second time.

    python -m benchmarks.gpu.start --shape llama-8b --gpus 1 --times 2 --work /tmp/gpu

Each time is a fresh home and temporary folder; in it ``LLM(...)`` alone starts twice, and in another one `vllm-hpc
submit` twice, its node's own copies of compiled code deleted in between, as on another node. Seconds until the engine
takes requests, imports included. One throw-away import comes first, so that nobody pays for a cold disk.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.results import spread
from benchmarks.gpu.shapes import make, shape_parser

BARE = """
import json, sys, time
began = time.perf_counter()
from vllm import LLM, SamplingParams
imported = time.perf_counter()
if __name__ == "__main__":
    llm = LLM(model=sys.argv[1], tensor_parallel_size=int(sys.argv[2]), load_format="dummy", max_model_len=4096,
              max_num_seqs=512, disable_log_stats=True, **json.loads(sys.argv[3]))
    done = time.perf_counter()
    llm.generate("a", SamplingParams(max_tokens=8), use_tqdm=False)
    with open(sys.argv[4], "w") as file:
        json.dump({"import": imported - began, "load": done - imported}, file)
"""
# Without NVLink multicast, which shared hosts keep switched off; vllm-hpc leaves it out by itself.
NO_MULTICAST = '{"compilation_config": {"pass_config": {"fuse_allreduce_rms": false}}}'
CACHES = (
    "XDG_CACHE_HOME",
    "VLLM_CACHE_ROOT",
    "TRITON_CACHE_DIR",
    "TORCHINDUCTOR_CACHE_DIR",
    "FLASHINFER_WORKSPACE_BASE",
)


def bare(model: Path, gpus: int, home: Path) -> dict[str, float]:
    """vLLM alone, as its documentation starts it."""
    script = home / "bare.py"
    script.write_text(BARE)
    words = [sys.executable, str(script), str(model), str(gpus), NO_MULTICAST if gpus > 1 else "{}"]
    subprocess.run([*words, str(home / "told")], env=_environment(home), stdout=subprocess.DEVNULL, check=True)
    found: dict[str, float] = json.loads((home / "told").read_bytes())
    return found


def ours(model: Path, gpus: int, home: Path) -> dict[str, float]:
    """`vllm-hpc submit`; the slowest rank's seconds, and the parts of its start."""
    shutil.rmtree(home / "tmp", ignore_errors=True)
    (home / "tmp").mkdir()
    (home / "rows.txt").write_text("a\nb\n")
    jobs = home / "runs"
    name = f"job-{len(list(jobs.glob('*')))}"
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(home / "rows.txt")]
    words += ["--scheduler", "local", "--nodes", "1", "--gpus-per-node", str(gpus), "--tp", str(gpus), "--wait"]
    words += ["--max-tokens", "8", "--engine", "load_format=dummy", "--engine", "max_model_len=4096"]
    words += ["--engine", "max_num_seqs=512", "--job-dir", str(jobs), "--name", name]
    subprocess.run(words, env=_environment(home), stdout=subprocess.DEVNULL, check=True)
    ranks = [json.loads(file.read_bytes())["timings"] for file in (jobs / name / "ranks").glob("rank-*.json")]
    slowest: dict[str, float] = max(ranks, key=_whole)
    return slowest


def _whole(timings: dict[str, float]) -> float:
    return timings.get("restore", 0.0) + timings["import"] + timings["load"]


def _environment(home: Path) -> dict[str, str]:
    """This one's, with every cache in that home."""
    kept = {name: value for name, value in os.environ.items() if name not in CACHES}
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    return kept | {"HOME": str(home), "TMPDIR": str(home / "tmp"), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def main() -> None:
    """Start all in turns, and print a table."""
    given = _arguments()
    model = make(given.shape, given.work / given.shape)
    subprocess.run([sys.executable, "-c", "import vllm; from vllm import LLM"], check=True)
    found: dict[tuple[str, str], list[float]] = {}
    ways: dict[str, Callable[[Path, int, Path], dict[str, float]]] = {"vLLM alone": bare, "vllm-hpc": ours}
    for number in range(given.times):
        for way, start in ways.items():
            home = given.work / f"home-{os.getpid()}-{number}-{start.__name__}"
            home.mkdir(parents=True)
            for which in ("cold", "second"):
                timings = start(model, given.gpus, home)
                found.setdefault((way, which), []).append(_whole(timings))
                print(f"{way}, {which}: {_whole(timings):.1f} s: {json.dumps(timings)}", flush=True)
    print("| start | of | seconds, median (least - most) |\n| --- | --- | --- |")
    for (way, which), seconds in found.items():
        print(f"| {which} | {way} | {spread(seconds)} |")


def _arguments() -> argparse.Namespace:
    parser = shape_parser(__doc__, times=2)
    parser.add_argument("--gpus", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
