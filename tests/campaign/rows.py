"""The rows of a campaign, and what an undisturbed run answers to them: the tiny model on vLLM, or a rehearsal."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

from tests.real_jobs import rehearsed_texts
from vllm_hpc.rows import Row

MOST = 8
# Those that the engine runs, and an eighth more that wait in it so that no step begins with none (engine/loop.py).
IN_FLIGHT = MOST + MOST // 8
ENGINE = {"dtype": "float32", "max_num_seqs": MOST}
SAMPLING = {"temperature": 0.0, "max_tokens": 200, "sampling": {"ignore_eos": True}}
# Of a rehearsal: it generates for about as long as the tiny model does, so that kills meet rows in flight.
PACE = {"tokens_per_s": 2000}
# A row is left out if anywhere in its text the two likeliest tokens are that close (in log probability): there float32
# gives one or the other, as the sums of a layout's ranks happen to be rounded.
_CLOSE = 1e-4
_SHORTEST, _LONGEST = 16, 200

_REFERENCE = """
import json, sys
from vllm import LLM, SamplingParams

def gap(position):
    two = sorted((one.logprob for one in position.values()), reverse=True)
    return two[0] - two[1]

def main():
    model, rows = json.loads(sys.stdin.read())
    llm = LLM(model=model, dtype="float32", enforce_eager=True, seed=0, disable_log_stats=True, max_num_seqs=32)
    params = [
        SamplingParams(temperature=0.0, ignore_eos=True, logprobs=2, max_tokens=row["sampling"]["max_tokens"])
        for row in rows
    ]
    found = [output.outputs[0] for output in llm.generate([row["prompt"] for row in rows], params, use_tqdm=False)]
    answers = [[one.text, min(map(gap, one.logprobs))] for one in found]
    open(sys.argv[1], "w").write(json.dumps(answers))

if __name__ == "__main__":
    main()
"""


def make_rows(number: int, seed: int) -> list[Row]:
    """Rows whose lengths have a heavy tail: most are short, and a few are in flight for very long."""
    chance = random.Random(seed)
    lengths = (min(_LONGEST, int(_SHORTEST * chance.paretovariate(1.2))) for _ in range(number))
    return [
        {"id": f"row-{index}", "prompt": f"def function_{index}(folder):", "sampling": {"max_tokens": length}}
        for index, length in enumerate(lengths)
    ]


def with_answers(model: Path | None, rows: list[Row], work: Path) -> list[tuple[Row, str]]:
    """The rows that have one answer on every layout, each with plain vLLM's; kept in ``work`` for the next time.

    Of a rehearsal (None) these are all rows, and nothing is kept.
    """
    if model is None:
        return [(row, rehearsed_texts([row], row["sampling"]["max_tokens"])[0]) for row in rows]
    kept = work / f"answers-{len(rows)}.json"
    if not kept.exists():
        _answer(model, rows, kept)
    answers = json.loads(kept.read_text())
    return [(row, text) for row, (text, gap) in zip(rows, answers, strict=True) if gap > _CLOSE]


def _answer(model: Path, rows: list[Row], out: Path) -> None:
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _REFERENCE, str(out)],
        input=json.dumps([str(model), rows]), text=True, capture_output=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
