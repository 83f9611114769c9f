"""What --reproducible costs, and whether it keeps its word: the same rows in other batches, and over a resume.

    python -m benchmarks.gpu.reproducible --shape llama-1b --rows 1024 --work /tmp/gpu

Jobs with random weights, whose logits lie so close together that other rounding shows at once: with the mode and
without it at --sequences, with it at an eighth of that, and with it drained in the middle and resumed. Half of the rows
are greedy, half sampled. A table of tokens/s while generating, and of the share of rows that are equal to those of the
first job with the mode. With --gpus 2 also TP=2, and jobs of one GPU run two at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu.case import Case, make_rows
from benchmarks.gpu.shapes import make_random, shape_parser

_POLL_S = 0.5
_STATES = ("COMPLETED", "PARTIAL", "FAILED", "CANCELLED", "TIMEOUT")


def run(words: list[str], log: Path, codes: tuple[int, ...] = (0,), gpus: str | None = None) -> str:
    """Run a command of vllm-hpc and return what it printed. Raises CalledProcessError for another exit code."""
    seen = {"CUDA_VISIBLE_DEVICES": gpus} if gpus else {}
    with log.open("ab") as told:
        done = subprocess.run(
            [sys.executable, "-m", "vllm_hpc", *words],
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            env=os.environ | seen,
        )
    if done.returncode not in codes:
        raise subprocess.CalledProcessError(done.returncode, words, f"see {log}")
    return done.stdout


class Bench:
    """The jobs of one shape."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        self.runs: Path = given.work / f"reproducible-{given.shape}-{int(time.time())}"
        self.runs.mkdir(parents=True)
        self.log = self.runs / "log"
        self.model = make_random(given.shape, given.work / f"{given.shape}-random")
        vocabulary = json.loads((self.model / "config.json").read_text())["vocab_size"]
        rows = make_rows(Case(shape=given.shape, ways=("submit",), prompts=given.rows, output=given.output), vocabulary)
        for row in rows[1::2]:
            row["sampling"] |= {"temperature": 0.8, "top_p": 0.95}
        self.input = self.runs / "rows.jsonl"
        self.input.write_text("".join(json.dumps(row) + "\n" for row in rows))
        self.table: list[tuple[str, str, str]] = []

    def submit(
        self, name: str, is_on: bool, sequences: int, gpus: str | None = None, tp: int = 1, waits: bool = True
    ) -> Path:
        """Submit a job, and return its folder."""
        words = ["submit", str(self.model), "--input", str(self.input), "--scheduler", "local", "--nodes", "1"]
        words += ["--tp", str(tp), "--dp", "1", "--job-dir", str(self.runs), "--name", name, "--temperature", "0"]
        words += ["--max-tokens", str(self.given.output), "--sampling", "ignore_eos=true"]
        words += ["--engine", "max_model_len=2048"]
        words += ["--engine", f"max_num_seqs={sequences}", *(["--wait"] if waits else [])]
        words += ["--reproducible" if is_on and not self.given.pretend else "--seed-rows"]
        run(words, self.log, gpus=gpus)
        return self.runs / name

    def drain_and_resume(self, job: Path, gpus: str | None) -> None:
        """Stop a job in good order once a quarter of its rows is done, and run the rest in another attempt."""
        while (status := json.loads(run(["status", str(job), "--json"], self.log)))["rows"][
            "done"
        ] < self.given.rows / 4:
            if status["state"] in _STATES:
                raise SystemExit(f"{job.name} ended before it could be drained ({status['state']}): use more --rows")
            time.sleep(_POLL_S)
        (job / "control" / "drain").touch()
        self._wait(job)
        if json.loads(run(["status", str(job), "--json"], self.log))["state"] == "COMPLETED":
            raise SystemExit(f"{job.name} ended before it had drained: use more --rows")
        (job / "control" / "drain").unlink(missing_ok=True)
        run(["resume", str(job), "--wait"], self.log, gpus=gpus)

    def _wait(self, job: Path) -> None:
        while json.loads(run(["status", str(job), "--json"], self.log))["state"] not in _STATES:
            time.sleep(_POLL_S)

    def add(self, what: str, job: Path, with_job: Path | None) -> None:
        """Add a job's line: its speed, and how many of its rows are those of the other."""
        run(["collect", str(job)], self.log)
        summary: dict[str, Any] = json.loads((job / "summary.json").read_text())
        busy = sum(summary["timings"].get(name, 0.0) for name in ("warm-up", "generate", "drain"))
        speed = f"{summary['completion_tokens'] / busy:,.0f}" if busy else "-"
        equal = "-"
        if with_job is not None:
            found = json.loads(run(["diff", str(with_job), str(job), "--json", "--show", "1"], self.log, (0, 1)))
            equal = f"{found['equal']} of {found['compared']}"
            print(json.dumps({"job": job.name, **{name: found[name] for name in ("equal", "compared", "common")}}))
        self.table.append((what, speed, equal))
        print(f"{what}: {speed} tok/s, equal: {equal}", flush=True)


def main() -> int:
    """Run the jobs, and print the table."""
    parser = shape_parser(__doc__, 1)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--output", type=int, default=128, help="tokens out of each row")
    parser.add_argument("--sequences", type=int, default=256, help="max_num_seqs of the larger batches")
    parser.add_argument("--gpus", type=int, default=1, choices=(1, 2))
    parser.add_argument("--pretend", action="store_true", help="without the mode, to try this where there is no GPU")
    bench = Bench(parser.parse_args())
    most = bench.given.sequences
    few = max(1, most // 8)

    def larger(gpus: str | None) -> None:
        on = bench.submit("on", True, most, gpus)
        bench.add(f"on, max_num_seqs {most}", on, None)
        bench.add(f"off, max_num_seqs {most}", bench.submit("off", False, most, gpus), on)

    def others(gpus: str | None) -> list[tuple[str, Path]]:
        made = [(f"on, max_num_seqs {few}", bench.submit("on-few", True, few, gpus))]
        resumed = bench.submit("on-resumed", True, most, gpus, waits=False)
        bench.drain_and_resume(resumed, gpus)
        return [*made, ("on, drained and resumed", resumed)]

    if bench.given.gpus > 1:
        with ThreadPoolExecutor() as both:
            first, second = both.submit(larger, "0"), both.submit(others, "1")
            first.result()
            made = second.result()
        made.append(("on, TP=2", bench.submit("on-tp2", True, most, tp=2)))
    else:
        larger(None)
        made = others(None)
    for what, job in made:
        bench.add(what, job, bench.runs / "on")
    print("| job | tok/s | rows equal to those of the first |\n| --- | --- | --- |")
    for line in bench.table:
        print(f"| {' | '.join(line)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
