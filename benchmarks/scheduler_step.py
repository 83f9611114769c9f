"""What vLLM's asynchronous scheduler costs a step, its own way and the short one, in turns; no GPU, no model's answers.

    python -m benchmarks.scheduler_step --sequences 512 --times 3

Rows of 256 tokens in and 128 out, four for each sequence, two steps in flight. Milliseconds of Python in ``schedule``
and ``update_from_output`` a step, median of the times; what is sampled is made up, and not counted.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks.gpu.shapes import make
from benchmarks.one_engine import prepare_environment


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    prepare_environment()
    from vllm import LLM

    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(
            str(make("tiny", Path(folder) / "tiny")), load_format="dummy", enforce_eager=True, max_model_len=512,
            max_num_seqs=given.sequences, max_num_batched_tokens=8192, num_gpu_blocks_override=given.sequences * 20,
            block_size=32,
        )  # fmt: skip
    core: Any = llm.llm_engine.engine_core.engine_core
    found: dict[str, list[tuple[float, ...]]] = {"own": [], "short": []}
    for _ in range(given.times):
        for way, runs in found.items():
            runs.append(run(core, way, given.sequences))
    for way, runs in found.items():
        schedule, update = (statistics.median(one) for one in zip(*runs, strict=True))
        print(f"{way}: schedule {schedule:.2f} ms, update_from_output {update:.2f} ms a step")


def run(core: Any, way: str, sequences: int) -> tuple[float, float]:
    """Milliseconds a step of a fresh scheduler: schedule, update."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.request import Request

    from tests.steady_run import pipelined_scheduler, sampled
    from vllm_hpc.engine.steady import Steady

    scheduler: Any = pipelined_scheduler(core)
    if way == "short":
        steady = Steady(scheduler)
        scheduler.schedule, scheduler.update_from_output = steady.schedule, steady.update
    chance = random.Random(0)
    params = SamplingParams(max_tokens=128, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
    idents = [str(number) for number in range(4 * sequences)]
    for ident in idents:
        prompt = chance.choices(range(4096), k=256)
        scheduler.add_request(Request(ident, prompt, params, None, block_hasher=core.request_block_hasher))
    made, in_flight, steps, spent = dict.fromkeys(idents, 0), deque[Any](), 0, [0.0, 0.0]
    gc.collect()
    while scheduler.has_requests():
        began = time.perf_counter()
        output = scheduler.schedule()
        spent[0] += time.perf_counter() - began
        steps += 1
        in_flight.append((output, sampled(output, scheduler, made)))
        if len(in_flight) == 2 or not output.total_num_scheduled_tokens:
            done = in_flight.popleft()
            began = time.perf_counter()
            scheduler.update_from_output(*done)
            spent[1] += time.perf_counter() - began
    return 1000 * spent[0] / steps, 1000 * spent[1] / steps


if __name__ == "__main__":
    main()
