"""The time left that `status` tells against what a job then took: even lengths, and lengths with a long tail.

A job of the tests' tiny model runs on this machine's CPU by the local scheduler, and its status is read every second.
Printed for each tenth of the job, from its first row in flight to its end: the seconds told, those that were left, and
the error; and the tokens/s of each quarter, for on a machine that others use the speed itself changes, and such a run
says nothing of the estimate. Aim: within 20 % or 5 s from a third of the job on.
Run: python benchmarks/eta.py --rows 1000          (two jobs of a minute or two each)
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from vllm_hpc.jobs.job import Job

AIM, AIM_S, FROM = 0.2, 5.0, 1 / 3
LONGEST = 500


def even(chance: random.Random) -> int:
    """Lengths that differ by a tenth."""
    return chance.randint(70, 90)


def heavy(chance: random.Random) -> int:
    """Half are shorter than 50 tokens, one in a hundred is at the limit."""
    return min(LONGEST, 1 + int(chance.lognormvariate(3.9, 1.0)))


def submit(work: Path, model: Path, draw: Callable[[random.Random], int], asked: argparse.Namespace) -> Job:
    """A job whose rows generate just so many tokens."""
    chance, given = random.Random(asked.seed), work / f"{draw.__name__}.jsonl"
    rows = ({"prompt": f"def f{n}(a):", "sampling": {"max_tokens": draw(chance)}} for n in range(asked.rows))
    given.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(given), "--scheduler", "local",
               "--engine", f"max_num_seqs={asked.seqs}", "--engine", "dtype=float32", "--env", "OMP_NUM_THREADS=1",
               "--sampling", "ignore_eos=true", "--max-tokens", str(LONGEST), "--job-dir", str(work),
               "--name", draw.__name__]  # fmt: skip
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Job(work / draw.__name__)


def watch(job: Job) -> list[tuple[float, float, int]]:
    """When the status was read while the job generated, and the seconds left that it told; the last is the end."""
    seen = []
    while True:
        status = job.status()
        if status.state == "RUNNING" and status.eta_s is not None and status.rows.missing:
            seen.append((time.time(), status.eta_s, status.tokens or 0))
        elif status.state not in ("PENDING", "RUNNING"):
            break
        elif seen and not status.rows.missing:  # what follows is the engine's exit
            seen.append((time.time(), 0.0, status.tokens or 0))
            break
        time.sleep(1)
    final = job.wait()
    if final.state != "COMPLETED":
        sys.exit(f"the job is {final.state}: {final.reason}")
    return seen


def told(name: str, seen: list[tuple[float, float, int]]) -> bool:
    """Print what was told; whether the aim is met."""
    first, end = seen[0][0], seen[-1][0]
    print(f"{name}: {end - first:.0f} s, load {os.getloadavg()[0]:.1f}")
    marks = [seen[(len(seen) - 1) * quarter // 4] for quarter in range(5)]
    pairs = pairwise(marks)
    speeds = [(after[2] - before[2]) / max(1e-9, after[0] - before[0]) for before, after in pairs]
    print("  tokens/s of each quarter: " + ", ".join(f"{speed:.0f}" for speed in speeds))
    errors = []
    for at, eta, _ in seen[:-1]:
        left = end - at
        errors.append(((at - first) / (end - first), left, eta - left))
    for tenth in range(10):
        share, left, error = min(errors, key=lambda one: abs(one[0] - tenth / 10 - 0.05))
        print(f"  at {share:4.0%}: {left + error:6.1f} s told, {left:6.1f} s left, {error / left:+5.0%}")
    late = [(abs(error) / left, abs(error)) for share, left, error in errors if share >= FROM]
    within = sum(part <= AIM for part, _ in late) / len(late)
    missed = [seconds for part, seconds in late if part > AIM and seconds > AIM_S]
    print(f"  from a third on: {within:.0%} of {len(late)} within {AIM:.0%}, {len(missed)} off by more than 5 s, too")
    return not missed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seqs", type=int, default=16)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--only", choices=["even", "heavy"])
    asked = parser.parse_args()
    met = True
    with tempfile.TemporaryDirectory(prefix="vllm-hpc-eta-") as given:
        work, model = Path(given), Path(given) / "model"
        tiny = Path(__file__).parents[1] / "tests" / "tiny_model.py"
        subprocess.run([sys.executable, str(tiny), str(model), "1024"], check=True, stderr=subprocess.DEVNULL)
        for draw in (even, heavy):
            if asked.only in (None, draw.__name__):
                met &= told(draw.__name__, watch(submit(work, model, draw, asked)))
                sys.stdout.flush()
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
