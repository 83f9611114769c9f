"""What the benchmark runs on each rank: one engine start, then every way several times in turns.

    torchrun --nproc-per-node=4 -m benchmarks.gpu.rank CASE.json OUT     "attempt", "generate"; "seed", "independent"
    python -m benchmarks.gpu.rank CASE.json OUT                          the same with one GPU; or way "mp", "native"

Each rank appends to OUT/<rank>.jsonl. With VLLM_HPC_BENCHMARK_STACKS=1 one more round of each way is sampled into
OUT/<way>-<rank>.stacks (collapsed stacks, as flame graphs are made of), and counts for nothing; with
VLLM_HPC_BENCHMARK_STACKS=first that is the first one after the short one, which pays for what that did not meet. With
VLLM_HPC_BENCHMARK_TIMELINE=1 one more has each GPU's batches timed (benchmarks.gpu.timeline), with
VLLM_HPC_BENCHMARK_KERNELS=1 what runs in them (benchmarks.gpu.kernels).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.gpu import kernels, timeline
from benchmarks.gpu.case import RAW, Case, Figure, Started, greedy_rows, make_rows
from benchmarks.gpu.limits import Limits
from benchmarks.gpu.raw import start_raw
from benchmarks.gpu.sampler import Sampler, Waits, inclusive
from benchmarks.one_engine import OneEngine, Run, prepare_environment
from vllm_hpc.engine.health.watchdog import kill_children
from vllm_hpc.rows.row import Row
from vllm_hpc.spec.layout import Layout


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
    start = start_raw if case.ways[0] in RAW else partial(_ranks, jobs=out / "jobs")
    start_up, ways, engine = start(case, model)
    rank = int(os.environ.get("VLLM_HPC_RANK", 0))
    sampled = os.environ.get("VLLM_HPC_BENCHMARK_STACKS")
    greedy = {way: run(greedy_rows(rows)).digest for way, run in ways.items()}
    with (out / f"{rank}.jsonl").open("ab") as file:
        for number in range(-1, case.times):  # the first is to warm up, and short
            for way, run in ways.items():
                if number == 0 and sampled == "first":
                    _sample(partial(run, rows), out / f"{way}-{rank}.stacks")
                one = run(rows if number >= 0 else rows[: max(8, case.prompts // 16)])
                figure = Figure(
                    way, number, rank, rank // (case.tp * case.pp), round(one.seconds, 3), one.tokens, one.digest,
                    round(one.idle, 4), one.occupancy, start_up, greedy[way],
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
    bench = OneEngine(jobs, model, layout, {**case.engine, **backend}, case.sampling)
    every: dict[str, Callable[[list[Row]], Run]] = {
        "attempt": bench.attempt, "native": bench.attempt, "generate": bench.generate,
    }  # fmt: skip
    if bench.shares_sampling:
        every["unshared"] = bench.unshared
    for way in case.ways:
        if limits := Limits.named(way):
            every[way] = partial(bench.limited, sequences=limits.sequences, tokens=limits.tokens)
    return bench.start_up, {way: every[way] for way in case.ways if way in every}, bench.engine


if __name__ == "__main__":
    main()
