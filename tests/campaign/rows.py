"""The rows of a campaign, and what an undisturbed run answers to them: the tiny model on vLLM, or a rehearsal."""

from __future__ import annotations

import random
from pathlib import Path

from tests.plain_vllm import ask_plain_vllm
from tests.real_jobs import rehearsed_texts
from vllm_hpc.rows.row import Row

MOST = 8
# Those that the engine runs, and an eighth more that wait in it so that no step begins with none (engine/loop/loop.py).
IN_FLIGHT = MOST + MOST // 8
ENGINE = {"dtype": "float32", "max_num_seqs": MOST}
SAMPLING = {"temperature": 0.0, "max_tokens": 200, "sampling": {"ignore_eos": True}}
# Of a rehearsal: it generates for about as long as the tiny model does, so that kills meet rows in flight.
PACE = {"tokens_per_s": 2000}
# A row is left out if anywhere in its text the two likeliest tokens are that close (in log probability): there float32
# gives one or the other, as the sums of a layout's ranks happen to be rounded.
_CLOSE = 1e-4
_SHORTEST, _LONGEST = 16, 200


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
    return decided(rows, ask_plain_vllm(model, work / f"answers-{len(rows)}.json", [], rows, {})["together"])


def decided(rows: list[Row], answers: list[tuple[str, float]]) -> list[tuple[Row, str]]:
    """Of rows and plain vLLM's answers to them those that no rounding changes."""
    return [(row, text) for row, (text, gap) in zip(rows, answers, strict=True) if gap > _CLOSE]
