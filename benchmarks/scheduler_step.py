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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu.shapes import make
from benchmarks.one_engine import choose_port, prepare_environment

if TYPE_CHECKING:
    from vllm import LLM


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--times", type=int, default=3)
    given = parser.parse_args()
    prepare_environment()
    choose_port()
    from vllm import LLM

    with tempfile.TemporaryDirectory() as folder:
        llm = LLM(
            str(make("tiny", Path(folder) / "tiny")), load_format="dummy", enforce_eager=True, max_model_len=512,
            max_num_seqs=given.sequences, max_num_batched_tokens=8192, num_gpu_blocks_override=given.sequences * 20,
            block_size=32,
        )  # fmt: skip
    found: dict[str, list[tuple[float, ...]]] = {"own": [], "short": []}
    for _ in range(given.times):
        for way, runs in found.items():
            runs.append(run(llm, way, given.sequences))
    for way, runs in found.items():
        schedule, update = (statistics.median(one) for one in zip(*runs, strict=True))
        print(f"{way}: schedule {schedule:.2f} ms, update_from_output {update:.2f} ms a step")


def run(llm: LLM, way: str, sequences: int) -> tuple[float, float]:
    """Milliseconds a step of a fresh scheduler: schedule, update."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.request import Request

    from tests.steady_run import pipelined, pipelined_scheduler
    from vllm_hpc.engine.vllm_patches.fast_schedule import take_short_way

    core: Any = llm.llm_engine.engine_core.engine_core
    scheduler: Any = pipelined_scheduler(core)
    core.scheduler = scheduler
    if way == "short":
        assert take_short_way(llm.llm_engine)
    schedule, update = Timed(scheduler.schedule), Timed(scheduler.update_from_output)
    scheduler.schedule, scheduler.update_from_output = schedule, update
    chance = random.Random(0)
    params = SamplingParams(max_tokens=128, ignore_eos=True, output_kind=RequestOutputKind.FINAL_ONLY)
    prompts = [chance.choices(range(4096), k=256) for _ in range(4 * sequences)]
    requests = [
        Request(str(number), prompt, params, None, block_hasher=core.request_block_hasher)
        for number, prompt in enumerate(prompts)
    ]
    gc.collect()
    for _ in pipelined(scheduler, requests):
        pass
    return 1000 * schedule.seconds / schedule.calls, 1000 * update.seconds / schedule.calls


class Timed:
    """A function, how often it was called, and how long that took."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.calls, self.seconds = 0, 0.0

    def __call__(self, *given: Any) -> Any:
        began = time.perf_counter()
        try:
            return self._function(*given)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - began


if __name__ == "__main__":
    main()
