"""What a program costs, and what hooks cost: `vllm-hpc submit` of the same rows, in turns.

    python -m benchmarks.gpu.hooks --shape llama-8b --rows 2048 --seconds 480

Jobs: without a program; with one beside the rows (on_output for each); with a hook on every layer, which is in eager
mode; and eager mode alone, which tells the two apart. Dummy weights, 256 tokens in and 128 out. It prints tokens/s
while generating, and what the ranks of the hooks' job left: parameters, groups, an all-reduce over the device's group.
No job begins after --seconds. The first job on a machine pays for compiling, not while it generates.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import SAMPLING, Case, make_rows
from benchmarks.gpu.shapes import make, shape_parser

_PROGRAMS = Path(__file__).with_name("hook_programs.py")
# In the order in which they run: what is left out where time runs out is the last.
WAYS: dict[str, list[str]] = {
    "without a program": [],
    "program": ["--program", f"{_PROGRAMS}:Beside"],
    "hooks": ["--program", f"{_PROGRAMS}:Hooks"],
    "eager alone": ["--engine", "enforce_eager=true"],
}
_ENGINE = {"load_format": "dummy", "max_model_len": 4096, "max_num_seqs": 512}


def submit(words: list[str], way: str, job: Path) -> dict[str, Any] | None:
    """Run a job to its end. Returns its summary; None if it failed, after saying so."""
    log = job.with_name(f"{job.name}.log")
    with log.open("wb") as file:
        done = subprocess.run([*words, "--name", job.name, *WAYS[way]], stdout=file, stderr=file)
    if done.returncode:
        ends = [job / "logs" / "rank-0.log", log]
        tails = ["\n".join(end.read_text(errors="replace").splitlines()[-20:]) for end in ends if end.exists()]
        print(f"{way} failed:", *tails, sep="\n", flush=True)
        return None
    found: dict[str, Any] = json.loads((job / "summary.json").read_text())
    return found


def tell(way: str, summary: dict[str, Any], beside: float | None) -> float:
    """Print a job's speed, beside that of one without a program; return it."""
    speed = float(summary["tokens_per_s"])
    ratio = f", {speed / beside:.3f} of without" if beside else ""
    timings = {name: summary["timings"][name] for name in ("import", "load", "generate")}
    print(f"{way}: {speed:.0f} tokens/s{ratio}; seconds: {timings}", flush=True)
    return speed


def main() -> int:
    """Run the jobs; 1 if one failed."""
    parser = shape_parser(__doc__, times=1)
    parser.add_argument("--rows", type=int, default=2048)
    parser.add_argument("--tp", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=480.0)
    given = parser.parse_args()
    deadline = time.monotonic() + given.seconds
    model = make(given.shape, given.work / given.shape)
    case = Case(shape=given.shape, ways=("submit",), prompts=given.rows)
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    rows = given.work / "hook-rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(case, vocabulary)))
    runs = given.work / "hook-runs" / str(int(time.time()))
    runs.mkdir(parents=True)
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(rows), "--scheduler", "local"]
    words += ["--nodes", "1", "--gpus-per-node", str(given.tp), "--tp", str(given.tp), "--job-dir", str(runs), "--wait"]
    words += [word for name, value in SAMPLING.items() for word in ("--sampling", f"{name}={value}")]
    words += [word for name, value in _ENGINE.items() for word in ("--engine", f"{name}={json.dumps(value)}")]
    has_failed, speeds = False, dict[str, float]()
    for number in range(given.times):
        for way in WAYS:
            if time.monotonic() > deadline:
                print(f"{way}: no time is left", flush=True)
                continue
            job = runs / f"{way.replace(' ', '-')}-{number}"
            summary = submit(words, way, job)
            if summary is None:
                has_failed = True
                continue
            speeds[way] = tell(way, summary, speeds.get("without a program"))
            for artefact in sorted((job / "artefacts").glob("rank-0/*.json")):
                print(f"{artefact.name}: {artefact.read_text()[:3000]}", flush=True)
    return int(has_failed)


if __name__ == "__main__":
    sys.exit(main())
