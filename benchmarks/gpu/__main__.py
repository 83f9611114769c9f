"""vllm-hpc beside the ways people run vLLM on one host, model shapes with dummy weights, no network needed.

    python -m benchmarks.gpu --gpus 4 --shapes llama-8b,llama-1b --work /tmp/gpu --results results.jsonl

For each shape: vllm-hpc's attempt and LLM.generate in turns on one engine for TP = all GPUs, and for as many replicas
as there are GPUs; vLLM's own mp backend with the same engine settings, TP and PP, and vllm-hpc's attempt over it
(--launcher native); an engine of vLLM's own for each GPU; the seed's recipe (LLM() under torchrun with
external_launcher, TP x PP=2); `vllm-hpc submit` with no layout given; then the attempt with every other layout that
fits, to hold the planner's choice against.

    python -m benchmarks.gpu --shape-of mlperf-8b --prompts 4096 --times 2 --results results.jsonl

MLPerf's lengths (benchmarks.gpu.lengths), greedy: `submit` with the settings that --arms names (bf16 and fp8), in
turns, beside what is published and what the GPU's ceilings allow; with --only attempt each arm on an engine of its own.

    python -m benchmarks.gpu --shapes qwen-30b-a3b --sweep-batch 512,1024,2048 --prompts 4096 --results results.jsonl

sequences at once (and tokens in a step: 1792x65536), in turns on one engine that holds the most of each.

Results accumulate in the file: what is there is not run again, so a run
that was cut off (--seconds) goes on. Speeds are only comparable between lines of one machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.gpu.arm_tables import arms_table, sweep_table
from benchmarks.gpu.arms import ARMS, arm_cases
from benchmarks.gpu.case import OUTPUT, Case
from benchmarks.gpu.lengths import LENGTHS
from benchmarks.gpu.limits import Limits
from benchmarks.gpu.results import append, choices, efficiencies, outputs, read, table, whole
from benchmarks.gpu.runs import run_all
from benchmarks.gpu.shapes import SHAPES, make
from vllm_hpc.planner.queues import plan_only
from vllm_hpc.spec.errors import RefusedError

# Dummy weights; what all ways are given. 512: vLLM's largest CUDA graph, and what vllm-hpc's planner picks.
ENGINE = {"load_format": "dummy", "max_model_len": 4096, "max_num_seqs": 512, "seed": 1}
# Without NVLink multicast, which shared hosts keep switched off.
NO_MULTICAST = {"pass_config": {"fuse_allreduce_rms": False}}


def cases(shape: str, gpus: int, prompts: int, times: int, sigma: float, settings: dict[str, Any]) -> list[Case]:
    """What is measured of a shape, the most telling first; of rows of uneven lengths (``sigma``), one start only.

    ``settings``: further engine arguments of all ways.
    """
    both = ("attempt", "generate")
    shared = ("attempt", "unshared", "generate") if gpus > 1 and not sigma else both
    engine: dict[str, Any] = ENGINE | settings
    if gpus > 1:  # a passed pass_config says itself what it wants fused
        engine["compilation_config"] = NO_MULTICAST | engine.get("compilation_config", {})
    found = [Case(shape=shape, ways=shared, tp=gpus, engine=engine, prompts=prompts, times=times, sigma=sigma)]
    if not sigma:
        found += [
            Case(shape=shape, ways=(way,), tp=gpus, engine=engine, prompts=prompts, times=times)
            for way in ("mp", "native")
        ]
        found.append(
            Case(
                shape=shape, ways=("submit",), dp=gpus, engine={"load_format": "dummy", **settings},
                prompts=prompts, times=2,
            )
        )  # fmt: skip
    if gpus > 1 and not sigma:
        found += [
            Case(shape=shape, ways=both, dp=gpus, engine=engine, prompts=prompts, times=times),
            Case(shape=shape, ways=("independent",), dp=gpus, engine=engine, prompts=prompts, times=times),
            # The seed's own settings: it names no max_num_seqs.
            Case(
                shape=shape, ways=("seed",), tp=gpus // 2, pp=2, prompts=prompts, times=times,
                engine={name: value for name, value in engine.items() if name != "max_num_seqs"},
            ),
            Case(shape=shape, ways=("mp",), pp=gpus, engine=engine, prompts=prompts, times=times),
            Case(shape=shape, ways=("native",), pp=gpus, engine=engine, prompts=prompts, times=times),
        ]  # fmt: skip
        for tp, pp, dp in layouts(gpus):
            if gpus not in (tp, dp):
                found.append(
                    Case(
                        shape=shape, ways=("attempt",), tp=tp, pp=pp, dp=dp, engine=engine, prompts=prompts, times=times
                    )
                )
    return [msgspec.structs.replace(case, settings=settings) for case in found]


def layouts(gpus: int) -> list[tuple[int, int, int]]:
    """All TP, PP and DP whose product is that."""
    sizes = [size for size in range(1, gpus + 1) if gpus % size == 0]
    return [(tp, pp, gpus // tp // pp) for tp in sizes for pp in sizes if gpus % (tp * pp) == 0]


def misfit(case: Case, model: Path) -> str | None:
    """Why the planner says that a case cannot run, None where it can or the planner does not know."""
    engine = {name: value for name, value in case.engine.items() if name != "seed"}  # that is --seed's
    # A submit's layout is the planner's own.
    layout = {} if "submit" in case.ways else {"tp": case.tp, "pp": case.pp, "dp": case.dp}
    try:
        plan = plan_only(
            str(model), engine=engine, nodes=1, gpus_per_node=case.gpus, scheduler="local", **layout
        )  # fmt: skip
    except RefusedError as error:
        return str(error)
    return plan.misfit if plan.fits is False else None


def main() -> int:
    """Run what is missing, and print the table."""
    given = _arguments()
    deadline = time.monotonic() + given.seconds
    for lines in run_all(_missing(given), given.work, lambda: deadline - time.monotonic()):
        for line in lines:
            append(given.results, line)
    lines = whole(read(given.results))
    for tell in (table, outputs, choices, efficiencies, arms_table, sweep_table):
        if told := tell(lines):
            print(told, end="\n\n")
    return 0


def _missing(given: argparse.Namespace) -> list[Case]:
    """What was asked for, in that order, but for what is done and what cannot be."""
    done = [line.case for line in read(given.results)]
    found: list[Case] = []
    for shape in given.shapes.split(","):
        for case in _asked(given, shape):
            if case in found or any(_is_same(case, one) for one in done):
                continue
            if reason := misfit(case, make(shape, given.work / shape)):
                print(f"{case.title}: left out: {reason}")
                continue
            found.append(case)
    return found


def _asked(given: argparse.Namespace, shape: str) -> list[Case]:
    """The cases of a shape, in the order asked for."""
    if given.arms or given.sweep_batch:
        base = Case(
            shape=shape, ways=(given.only or "submit",), dp=given.gpus, prompts=given.prompts, output=given.output,
            lengths=given.shape_of, settings=dict(given.engine),
        )  # fmt: skip
        return arm_cases(base, ENGINE, given.arms, given.sweep_batch, given.times)
    every = cases(shape, given.gpus, given.prompts, given.times, given.sigma, dict(given.engine))
    every = [msgspec.structs.replace(case, output=given.output) for case in every]
    if given.alone:
        every = [msgspec.structs.replace(case, ways=case.ways[:1]) for case in every]
    return _wanted(every, given.only)


def _wanted(every: list[Case], only: str) -> list[Case]:
    """Those that --only names, in its order; all where it names none. Ends the command where one is none of these."""
    found: list[Case] = []
    for name in only.split(",") if only else []:
        cases = [case for case in every if name in _names(case)]
        if not cases:
            known = dict.fromkeys(name for case in every for name in _names(case))
            raise SystemExit(f"--only {name!r} is nothing that is measured here: use {', '.join(known)}")
        found += cases
    return found if only else every


def _names(case: Case) -> list[str]:
    """What --only may call it."""
    sizes = [f"tp{case.tp}", f"pp{case.pp}", f"dp{case.dp}", f"{case.tp}x{case.pp}x{case.dp}"]
    return [*case.ways, *sizes, *(f"{case.ways[0]}:{size}" for size in sizes)]


def _is_same(case: Case, done: Case) -> bool:
    """Whether that is done, maybe with more ways; a submit's layout is not asked for, but found."""
    if case.ways == ("submit",):
        case = msgspec.structs.replace(case, tp=done.tp, pp=done.pp, dp=done.dp)
    return set(case.ways) <= set(done.ways) and msgspec.structs.replace(case, ways=done.ways) == done


def _setting(text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    try:
        return name, json.loads(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: use NAME=JSON, such as max_num_seqs=256 or dtype='\"half\"'"
        ) from None


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")
    return int(text)


def _arms(text: str) -> list[str]:
    arms = text.split(",")
    if unknown := [arm for arm in arms if arm not in ARMS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is not known: use {', '.join(ARMS)}")
    return arms


def _sweep(text: str) -> list[Limits]:
    try:
        return [Limits.read(one) for one in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _results(text: str) -> Path:
    """A file that can be added to: told before hours are measured."""
    file = Path(text)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        read(file)
    except (OSError, msgspec.DecodeError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return file


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", type=_count, default=1, help="of this host, or ranks on the CPU")
    parser.add_argument("--shapes", default="llama-8b", help=f"of {', '.join(SHAPES)}; separated by commas")
    parser.add_argument("--prompts", type=_count, default=2048, help="of 256 tokens")
    parser.add_argument("--output", type=_count, default=OUTPUT, help="tokens out of each")
    parser.add_argument("--sigma", type=float, default=0.0, help="of log-normal output lengths; 1.0: heavy-tailed")
    parser.add_argument("--shape-of", default="", choices=sorted(LENGTHS), help="lengths of a published set's rows")
    parser.add_argument("--arms", type=_arms, default=[], help=f"settings in turns, of {', '.join(ARMS)}")
    parser.add_argument(
        "--sweep-batch", type=_sweep, default=[], metavar="SEQUENCES[xTOKENS],...", help="in one engine"
    )
    parser.add_argument("--times", type=_count, default=3, help="rounds in one start of an engine")
    parser.add_argument(
        "--only",
        default="",
        help="ways (attempt, mp, submit ...), layouts (tp2, dp2, 2x1x2 ...), or both (mp:pp2), in this order",
    )
    parser.add_argument("--alone", action="store_true", help="the attempt without others on its engine, to be quick")
    parser.add_argument(
        "--engine", type=_setting, action="append", default=[], metavar="NAME=JSON", help="an engine argument of all"
    )
    parser.add_argument("--seconds", type=float, default=1500, help="no case begins, or goes on, after these")
    parser.add_argument("--work", type=Path, default=Path("/tmp/vllm-hpc-gpu"), help="models, logs and job folders")
    parser.add_argument("--results", type=_results, default="gpu-results.jsonl", help="added to; what is there is done")
    given = parser.parse_args()
    _check_arms(parser, given)
    longest = given.output * (8 if given.sigma else 1)
    if 256 + longest > ENGINE["max_model_len"]:
        parser.error(f"rows of 256 + {longest} tokens are more than {ENGINE['max_model_len']}: use a smaller --output")
    if unknown := [shape for shape in given.shapes.split(",") if shape not in SHAPES]:
        parser.error(f"--shapes {unknown[0]!r} is not known: use {', '.join(SHAPES)}")
    return given


def _check_arms(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Complete what --shape-of leaves open, and refuse what does not go together."""
    if given.shape_of and not given.arms:
        given.arms = ["fp8"] if given.sweep_batch else ["bf16", "fp8"]
    if not (given.arms or given.sweep_batch):
        return
    ways = ("attempt",) if given.sweep_batch else ("submit", "attempt", "generate")
    if given.only and given.only not in ways:
        parser.error(f"--only {given.only!r} must be one of {', '.join(ways)} with --shape-of, --arms or --sweep-batch")
    if given.sigma or given.alone:
        parser.error("--sigma and --alone must not be given with --shape-of, --arms or --sweep-batch")
    if given.shape_of and given.output != LENGTHS[given.shape_of].output:
        parser.error(f"--output must be left out: the rows of {given.shape_of} have {LENGTHS[given.shape_of].output}")
    if given.sweep_batch and given.gpus > 1:
        parser.error("--sweep-batch needs --gpus 1: it is about what one engine holds")


if __name__ == "__main__":
    sys.exit(main())
