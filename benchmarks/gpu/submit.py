"""`vllm-hpc submit` with no layout given, as its user runs it: the planner's choice, untouched.

Each time is a job of its own; on a machine where nothing was compiled before, the first one pays for what later ones
are spared, and the table's median of two is the speed of neither.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.case import Case, Figure, make_rows
from benchmarks.gpu.results import Line


def run_submit(case: Case, model: Path, out: Path, seconds: float) -> list[Line]:
    """Submit on the local scheduler, wait, and read summary.json, again and again.

    The case's layout becomes what the planner chose.
    """
    vocabulary = json.loads((model / "config.json").read_text())["vocab_size"]
    rows = make_rows(case, vocabulary)
    (out / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [sys.executable, "-m", "vllm_hpc", "submit", str(model), "--input", str(out / "rows.jsonl")]
    words += ["--scheduler", "local", "--gpus-per-node", str(case.gpus), "--nodes", "1", "--job-dir", str(out / "runs")]
    words += ["--wait"]
    words += [word for name, value in case.sampling.items() for word in ("--sampling", f"{name}={value}")]
    words += [word for name, value in case.engine.items() for word in ("--engine", f"{name}={json.dumps(value)}")]
    deadline = time.monotonic() + seconds
    figures: list[Figure] = []
    for number in range(case.times):
        job = out / "runs" / f"job-{number}"
        log = out / f"log-{number}"
        began = time.monotonic()
        try:
            _submit([*words, "--name", job.name], log, deadline - time.monotonic())
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            print(f"  {error}; {log} ends with:\n" + "\n".join(log.read_text().splitlines()[-15:]))
            cancel = [sys.executable, "-m", "vllm_hpc", "cancel", str(job)]
            subprocess.run(cancel, check=False)  # its ranks would disturb the next case
            return []
        whole = time.monotonic() - began
        print((job / "summary.json").read_text(), flush=True)
        figures.append(_figure(number, json.loads((job / "summary.json").read_text()), whole))
    layout = json.loads((job / "job.json").read_text())["plan"]["layout"]
    chosen = msgspec.structs.replace(case, **{name: layout[name] for name in ("tp", "pp", "dp")})
    return [Line(chosen, tuple(figures))]


def _submit(words: list[str], log: Path, seconds: float) -> None:
    with log.open("wb") as file:
        subprocess.run(words, stdout=file, stderr=file, timeout=seconds, check=True)


def _figure(number: int, summary: dict[str, Any], whole: float) -> Figure:
    """From the first step to the last, as the other ways are timed; start-up beside it."""
    timings = summary["timings"]
    busy = sum(timings.get(name, 0.0) for name in ("warm-up", "generate", "drain"))
    return Figure(
        "submit", number, 0, 0, busy, summary["completion_tokens"], "", summary["idle"] or 0.0,
        summary["occupancy"] or 0.0, {name: timings[name] for name in ("import", "load")},
        parts={**timings, "whole": round(whole, 3)},
    )  # fmt: skip
