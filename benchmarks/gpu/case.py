"""A case of the benchmark, what is run through it, and what a rank tells of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec

from benchmarks.gpu.lengths import LENGTHS
from benchmarks.one_engine import Run
from vllm_hpc.rows.row import Row

OUTPUT = 128  # tokens
# Of 256 tokens: what vLLM takes in one step at most on a large GPU, and vllm-hpc's loop admits at once.
GREEDY_ROWS = 64


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """An engine start: a shape, how it is laid out, what is run through it and how often.

    ``sigma`` 0: every row has ``output`` tokens; else their number is log-normal around that. ``settings``: those of
    ``engine`` that were asked for (--engine). ``lengths``: of rows as in that data set (benchmarks.gpu.lengths), and
    greedy; ``arm`` names the settings; ``turn`` is which of the times a case is that is run in turns with others.
    """

    shape: str
    ways: tuple[str, ...]
    tp: int = 1
    pp: int = 1
    dp: int = 1
    engine: dict[str, Any] = {}
    prompts: int = 2048
    prompt: int = 256
    output: int = OUTPUT
    sigma: float = 0.0
    times: int = 3
    settings: dict[str, Any] = {}
    lengths: str = ""
    arm: str = ""
    turn: int = 0

    @property
    def kind(self) -> str:
        """The kind of work, however much of it: of many rows, that is what the planner chooses a layout for."""
        more = dict(self.settings)
        if self.sigma:
            more["sigma"] = self.sigma
        if self.output != OUTPUT:
            more["output"] = self.output
        if self.lengths:
            more["lengths"] = self.lengths
        return ", ".join([self.shape, *(f"{name} {more[name]}" for name in sorted(more))])

    @property
    def work(self) -> str:
        """What is comparable, whatever the layout and the way."""
        return f"{self.kind}, {self.prompts} prompts"

    @property
    def title(self) -> str:
        """What is said of it when it begins."""
        named = f" ({self.arm})" if self.arm else ""
        return f"{self.shape}: {', '.join(self.ways)}{named}: TP {self.tp} x PP {self.pp} x DP {self.dp}"

    @property
    def sampling(self) -> dict[str, Any]:
        """That of the job."""
        return GREEDY if self.lengths else SAMPLING

    @property
    def gpus(self) -> int:
        """How many it takes."""
        return self.tp * self.pp * self.dp


class Figure(msgspec.Struct, frozen=True):
    """One run on one rank. ``greedy``: the digest of what this way makes of a few rows, greedily, in one batch.

    ``parts``: of a submit, the seconds of summary.json's parts, and "whole", from command to end.
    """

    way: str
    round: int
    rank: int
    replica: int
    seconds: float
    tokens: int
    digest: str
    idle: float
    occupancy: float
    start_up: dict[str, float]
    greedy: str = ""
    parts: dict[str, float] = {}


# Ways of vLLM by itself (benchmarks.gpu.raw).
RAW = ("mp", "seed", "independent")
# Seconds of its start, what runs rows through it, and the engine.
Started = tuple[dict[str, float], dict[str, Callable[[list[Row]], Run]], Any]
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "ignore_eos": True}
GREEDY = {"temperature": 0.0, "ignore_eos": True}


def make_rows(case: Case, vocabulary: int) -> list[Row]:
    """Random tokens, the same every time."""
    chance = random.Random(0)
    if case.lengths:
        drawn = LENGTHS[case.lengths].of_prompts(case.prompts)
        words = range(300, vocabulary)
        return [
            {"prompt": chance.choices(words, k=tokens), "sampling": {"max_tokens": case.output}} for tokens in drawn
        ]
    rows: list[Row] = []
    for _ in range(case.prompts):
        prompt = [chance.randrange(300, vocabulary) for _ in range(case.prompt)]
        output = case.output if not case.sigma else round(chance.lognormvariate(0, case.sigma) * case.output)
        rows.append({"prompt": prompt, "sampling": {"max_tokens": min(max(1, output), 8 * case.output)}})
    return rows


def greedy_rows(rows: list[Row]) -> list[Row]:
    """Rows that every way runs in the same batches, from the first step to the last."""
    return [{**row, "sampling": {"temperature": 0.0, "max_tokens": 16}} for row in rows[:GREEDY_ROWS]]
