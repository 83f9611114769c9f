"""What the benchmark runs on each rank: one engine start, then every way several times in turns.

    torchrun --nproc-per-node=4 -m benchmarks.gpu.rank CASE.json OUT     ways "attempt" and "generate"
    python -m benchmarks.gpu.rank CASE.json OUT                          the same with one GPU; or way "mp", "native"

Each rank appends to OUT/<rank>.jsonl. With VLLM_HPC_BENCHMARK_STACKS=1 one more round of each way is sampled into
OUT/<way>-<rank>.stacks (collapsed stacks, as flame graphs are made of), and counts for nothing; with
VLLM_HPC_BENCHMARK_STACKS=first that is the first one after the short one, which pays for what that did not meet. With
VLLM_HPC_BENCHMARK_TIMELINE=1 one more has each GPU's batches timed (benchmarks.gpu.timeline), with
VLLM_HPC_BENCHMARK_KERNELS=1 what runs in them (benchmarks.gpu.kernels).
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu import kernels, timeline
from benchmarks.gpu.sampler import Sampler, Waits, inclusive
from benchmarks.one_engine import OneEngine, Run, prepare_environment, wait_for_turn
from vllm_hpc.engine.watch import kill_children
from vllm_hpc.layout import Layout
from vllm_hpc.rows import Row


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """An engine start: a shape, how it is laid out, what is run through it and how often.

    ``sigma`` 0: every row has ``output`` tokens; else their number is log-normal around that. ``settings``: those of
    ``engine`` that were asked for (--engine).
    """

    shape: str
    ways: tuple[str, ...]
    tp: int = 1
    pp: int = 1
    dp: int = 1
    engine: dict[str, Any] = {}
    prompts: int = 2048
    prompt: int = 256
    output: int = 128
    sigma: float = 0.0
    times: int = 3
    settings: dict[str, Any] = {}

    @property
    def kind(self) -> str:
        """The kind of work, however much of it: for that the planner chooses a layout."""
        more = {"sigma": self.sigma, **self.settings} if self.sigma else self.settings
        return ", ".join([self.shape, *(f"{name} {more[name]}" for name in sorted(more))])

    @property
    def work(self) -> str:
        """What is comparable, whatever the layout and the way."""
        return f"{self.kind}, {self.prompts} prompts"

    @property
    def title(self) -> str:
        """What is said of it when it begins."""
        return f"{self.shape}: {', '.join(self.ways)}: TP {self.tp} x PP {self.pp} x DP {self.dp}"

    @property
    def gpus(self) -> int:
        """How many it takes."""
        return self.tp * self.pp * self.dp


class Figure(msgspec.Struct, frozen=True):
    """One run on one rank."""

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


# Seconds of its start, what runs rows through it, and the engine.
Started = tuple[dict[str, float], dict[str, Callable[[list[Row]], Run]], Any]
SAMPLING = {"temperature": 0.8, "top_p": 0.95, "ignore_eos": True}


def make_rows(case: Case, vocabulary: int) -> list[Row]:
    """Random tokens, the same every time."""
    chance = random.Random(0)
    rows: list[Row] = []
    for _ in range(case.prompts):
        prompt = [chance.randrange(300, vocabulary) for _ in range(case.prompt)]
        output = case.output if not case.sigma else round(chance.lognormvariate(0, case.sigma) * case.output)
        rows.append({"prompt": prompt, "sampling": {"max_tokens": min(max(1, output), 8 * case.output)}})
    return rows


def main() -> None:
    """Run the case's ways in turns, after a short run of each."""
    case = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Case)
    out = Path(sys.argv[2])
    model = out.parent / case.shape
    vocabulary = msgspec.json.decode((model / "config.json").read_bytes())["vocab_size"]
    rows = make_rows(case, vocabulary)
    more = next((one for one in (timeline, kernels) if os.environ.get(one.VARIABLE)), None)
    if more:
        case = msgspec.structs.replace(case, engine={**case.engine, "worker_extension_cls": more.NAME})
    start = _one_process if "mp" in case.ways else partial(_ranks, jobs=out / "jobs")
    start_up, ways, engine = start(case, model)
    rank = int(os.environ.get("VLLM_HPC_RANK", 0))
    sampled = os.environ.get("VLLM_HPC_BENCHMARK_STACKS")
    with (out / f"{rank}.jsonl").open("ab") as file:
        for number in range(-1, case.times):  # the first is to warm up, and short
            for way, run in ways.items():
                if number == 0 and sampled == "first":
                    _sample(partial(run, rows), out / f"{way}-{rank}.stacks")
                one = run(rows if number >= 0 else rows[: max(8, case.prompts // 16)])
                figure = Figure(
                    way, number, rank, rank // (case.tp * case.pp), round(one.seconds, 3), one.tokens, one.digest,
                    round(one.idle, 4), one.occupancy, start_up,
                )  # fmt: skip
                if number >= 0:
                    file.write(msgspec.json.encode(figure) + b"\n")
                    file.flush()
    for way, run in ways.items():
        if sampled and sampled != "first":
            _sample(partial(run, rows), out / f"{way}-{rank}.stacks")
        if more:
            told = out / f"{way}-{rank}.{more.__name__.rpartition('.')[2]}"
            print(f"{told.stem}: {more.record(engine, partial(run, rows), told)}", flush=True)
    kill_children()  # vLLM's own processes would keep the GPU's memory
    os._exit(0)  # and its threads may outlive main()


def _sample(run: Callable[[], Run], file: Path) -> None:
    sampler = Sampler()
    sampler.start()
    with Waits() as waits:
        done = run()
    stacks = sampler.stop()
    file.write_text(stacks + "\n")
    print(f"{file.stem}: {done.seconds:.2f} s while sampled; {waits}")
    for name, share in inclusive(stacks)[:60]:
        print(f"  {share:6.1%} {name}")
    sys.stdout.flush()


def _ranks(case: Case, model: Path, jobs: Path) -> Started:
    prepare_environment()
    os.environ["VLLM_HPC_RANK"] = os.environ["RANK"]  # a replica rewrites it
    layout = Layout(
        nodes=1, gpus_per_node=case.gpus, procs_per_node=case.gpus, tp=case.tp, pp=case.pp, dp=case.dp
    )  # fmt: skip
    backend = {"distributed_executor_backend": "mp"} if "native" in case.ways else {}
    bench = OneEngine(jobs, model, layout, {**case.engine, **backend}, SAMPLING)
    every: dict[str, Callable[[list[Row]], Run]] = {
        "attempt": bench.attempt, "native": bench.attempt, "generate": bench.generate,
    }  # fmt: skip
    if bench.shares_sampling:
        every["unshared"] = bench.unshared
    return bench.start_up, {way: every[way] for way in case.ways if way in every}, bench.engine


def _one_process(case: Case, model: Path) -> Started:
    """vLLM's own launcher: one process that starts a worker for each GPU."""
    for name in ("HF_HUB_OFFLINE", "VLLM_NO_USAGE_STATS"):
        os.environ.setdefault(name, "1")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # else it wants a NUMA node for each, on the CPU
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    began = time.perf_counter()
    from vllm import LLM, SamplingParams

    imports = time.perf_counter() - began
    began = wait_for_turn()
    llm = LLM(
        model=str(model), tensor_parallel_size=case.tp, pipeline_parallel_size=case.pp, disable_log_stats=True,
        distributed_executor_backend="mp" if case.gpus > 1 else None, **case.engine,
    )  # fmt: skip
    start_up = {"import": imports, "load": time.perf_counter() - began}

    def run(rows: list[Row]) -> Run:
        params = [SamplingParams(**SAMPLING, **row["sampling"]) for row in rows]
        llm.reset_prefix_cache()
        began, cpu = time.perf_counter(), time.process_time()
        outputs = llm.generate([{"prompt_token_ids": row["prompt"]} for row in rows], params, use_tqdm=False)
        seconds = time.perf_counter() - began
        tokens = [list(one.outputs[0].token_ids) for one in outputs]
        digest = hashlib.blake2b(str(tokens).encode(), digest_size=8).hexdigest()
        return Run(seconds, time.process_time() - cpu, sum(map(len, tokens)), {}, digest)

    return start_up, {"mp": run}, llm


if __name__ == "__main__":
    main()
